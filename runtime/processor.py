"""What the processor offers, as far as inference on it depends on it."""

from __future__ import annotations

import os
import platform
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


def saturates_u8s8() -> bool:
    """Whether ONNX Runtime's uint8 x int8 products may saturate at 16 bits here.

    x86 without VNNI adds two products of a uint8 and an int8 in a saturating 16-bit lane (`vpmaddubsw`):
    255 * 127 * 2 does not fit. VNNI and Arm's dot products accumulate in 32 bits.
    """
    flags = processor_flags()
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return x86 and not flags & {"avx512_vnni", "avx_vnni"}
