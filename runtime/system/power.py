"""The power mode of a Jetson, on which its clocks and the number of its cores and multiprocessors depend."""

from __future__ import annotations

import re
import subprocess

_NAME = re.compile(r"^NV Power Mode:\s*(\S.*?)\s*$", re.MULTILINE)
_PATIENCE = 5.0
"""Seconds; the tool answers within a tenth of one."""


def power_mode() -> str:
    """The name that `nvpmodel` gives the mode in force, such as `MAXN` or `15W`; empty where there is none.

    Other machines have no such tool. One that fails or does not answer says nothing either: the mode is
    a part of names and keys, never a condition.
    """
    try:
        said = subprocess.run(
            ["nvpmodel", "-q"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    match = _NAME.search(said)
    return match[1] if match else ""
