"""What the processor offers, as far as inference on it depends on it."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Cores that this process may use (affinity counts, container quotas do not)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_flags() -> frozenset[str]:
    """Feature flags as Linux names them (`avx2`, `avx512_vnni`, `asimddp`, ...); empty where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def has_int8_dot_products() -> bool:
    """Whether one instruction multiplies and adds four bytes (VNNI, AMX, Arm's dot products).

    Without it INT8 still gains, but less.
    """
    wanted = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
    return bool(processor_flags() & wanted)
