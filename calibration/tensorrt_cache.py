"""The calibration cache that TensorRT 8.x and 10.x read instead of calibrating.

A text file: `TRT-<version>-EntropyCalibration2`, then one `<tensor>: <scale>` a line, the scale amax / 127 as
the eight hexadecimal digits of a big-endian float32. TensorRT 11 has no calibrator; it takes the Q/DQ graph.

A layer may run in INT8 when its inputs and outputs have scales, so tensors of the decoding must not be in the
file: pass `candidate_tensors` of the model.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping

from edgewise.calibration.table import CalibrationTable
from edgewise.runtime.system.errors import CalibrationError

DEFAULT_VERSION = "8601"

_HEADER = re.compile(r"TRT-(\d+)-(\w+)")
_LINE = re.compile(r"(.+): ([0-9a-f]{8})")


def write_tensorrt_cache(
    table: CalibrationTable, tensors: Iterable[str], *, version: str = DEFAULT_VERSION
) -> bytes:
    """The cache file for `tensors`, each once, in the order given.

    Raises:
        CalibrationError: A tensor without a range, or a name that the format cannot hold.
    """
    scales = {tensor: table.scale_of(tensor) for tensor in tensors}
    for tensor in scales:
        if "\n" in tensor or not tensor:
            raise CalibrationError(f"a calibration cache cannot name the tensor {tensor!r}")
    lines = [f"{tensor}: {struct.pack('>f', scale).hex()}" for tensor, scale in scales.items()]
    return "\n".join([f"TRT-{version}-EntropyCalibration2", *lines, ""]).encode()


def read_tensorrt_cache(data: bytes) -> Mapping[str, float]:
    """The scale of every tensor of a cache file, TensorRT's own included; the algorithm must be entropy 2.

    Raises:
        CalibrationError: Not such a file.
    """
    try:
        header, *lines = data.decode().splitlines()
    except (UnicodeDecodeError, ValueError):
        raise CalibrationError("not a TensorRT calibration cache") from None
    found = _HEADER.fullmatch(header)
    if found is None or found[2] != "EntropyCalibration2":
        raise CalibrationError(f"not a cache of TensorRT's entropy calibrator: {header[:60]!r}")
    scales: dict[str, float] = {}
    for line in lines:
        parts = _LINE.fullmatch(line)
        if parts is None or parts[1] in scales:
            raise CalibrationError(f"a line of the calibration cache cannot be read: {line[:80]!r}")
        scales[parts[1]] = struct.unpack(">f", bytes.fromhex(parts[2]))[0]
    return scales


def version_tag(major: int, minor: int, patch: int) -> str:
    """TensorRT's version as its cache header writes it: 8.6.1 is 8601, 10.3.0 is 100300."""
    return f"{major}{minor}{patch:02d}" if major < 10 else f"{major}{minor:02d}{patch:02d}"
