"""INT8 ranges for the calibrator path of TensorRT 8.x and 10.x, from the bundle's calibration cache.

The cache is a text: a header `TRT-<version>-EntropyCalibration2`, then `tensor: <hexadecimal float32 scale>`
lines. The header names the TensorRT that shall read it, so it is rewritten for the one that builds.
"""

from __future__ import annotations

import re
from typing import Any

from edgewise.runtime.system.errors import BuildError

_HEADER = re.compile(r"^TRT-\d+-EntropyCalibration2$")
_LINE = re.compile(r"^(?P<tensor>.+): (?P<scale>[0-9a-f]{8})$")


def version_number(version: str) -> int:
    """TensorRT's own number of a version: 8.6.1 is 8601, 10.3.0 is 100300.

    Raises:
        BuildError: Not a version of TensorRT.
    """
    match = re.match(r"^(\d+)\.(\d+)\.(\d+)", version)
    if match is None:
        raise BuildError(f"{version!r} is not a version of TensorRT", hint="reinstall TensorRT")
    major, minor, patch = (int(part) for part in match.groups())
    return major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch


def cache_for(cache: bytes, version: str) -> bytes:
    """The cache with the header of the TensorRT that builds.

    Raises:
        BuildError: Not an entropy calibration cache, or it names no tensor.
    """
    hint = "run `edgewise calibrate` again"
    try:
        header, *lines = cache.decode().splitlines()
    except (UnicodeDecodeError, ValueError):
        raise BuildError("the calibration cache is not text", hint=hint) from None
    if not _HEADER.match(header) or not lines:
        raise BuildError("this is no entropy calibration cache", where=header[:80], hint=hint)
    for line in lines:
        if not _LINE.match(line):
            raise BuildError("a line of the calibration cache cannot be read", where=line[:80], hint=hint)
    return "\n".join((f"TRT-{version_number(version)}-EntropyCalibration2", *lines, "")).encode()


def make_calibrator(trt: Any, cache: bytes) -> Any:
    """An `IInt8EntropyCalibrator2` that has this cache and no images; keep it alive during the build."""

    def construct(self: Any) -> None:
        trt.IInt8EntropyCalibrator2.__init__(self)

    members = {
        "__init__": construct,
        "get_batch_size": lambda self: 1,
        "get_batch": lambda self, names: None,
        "read_calibration_cache": lambda self: cache,
        "write_calibration_cache": lambda self, data: None,
    }
    return type("CachedCalibrator", (trt.IInt8EntropyCalibrator2,), members)()
