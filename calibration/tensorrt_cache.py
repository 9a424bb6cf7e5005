"""The calibration cache that TensorRT 8.x and 10.x read instead of calibrating.

A text file: `TRT-<version>-EntropyCalibration2`, then one `<tensor>: <scale>` a line, the scale amax / 127 as
the eight hexadecimal digits of a big-endian float32. TensorRT 11 has no calibrator; it takes the Q/DQ graph.

A layer may run in INT8 when its inputs and outputs have scales, so tensors of the decoding must not be in the
file: pass `candidate_tensors` of the model.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from edgewise.calibration.table import CalibrationTable
from edgewise.runtime.system.errors import CalibrationError

DEFAULT_VERSION = "8601"


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
