from __future__ import annotations

import re
import struct

import numpy as np
import onnx
import pytest

from edgewise.calibration.placement import candidate_tensors
from edgewise.calibration.table import CalibrationTable
from edgewise.calibration.tensorrt_cache import write_tensorrt_cache
from edgewise.runtime.system.errors import CalibrationError

LINE = re.compile(r"(.+): ([0-9a-f]{8})")


def scales_of(data: bytes) -> dict[str, float]:
    """The scale of every tensor of a cache, as TensorRT's own files hold them."""
    header, *lines = data.decode().splitlines()
    assert header == "TRT-8601-EntropyCalibration2"
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found)
    return {each[1]: struct.unpack(">f", bytes.fromhex(each[2]))[0] for each in found if each is not None}


def test_round_trip(residual: onnx.ModelProto, table: CalibrationTable) -> None:
    tensors = candidate_tensors(residual)
    data = write_tensorrt_cache(table, tensors)
    assert data.startswith(b"TRT-8601-EntropyCalibration2\n")
    assert data.endswith(b"\n")
    found = scales_of(data)
    assert list(found) == list(tensors)
    for tensor in tensors:
        assert np.float32(found[tensor]) == np.float32(table.scale_of(tensor))


def test_one_line(table: CalibrationTable) -> None:
    digits = struct.pack(">f", table.scale_of("a_out")).hex()
    expected = f"TRT-100300-EntropyCalibration2\na_out: {digits}\n"
    assert write_tensorrt_cache(table, ["a_out"], version="100300").decode() == expected


def test_tensors_must_have_ranges_and_one_line_names(table: CalibrationTable) -> None:
    with pytest.raises(CalibrationError, match="no range"):
        write_tensorrt_cache(table, ["nobody"])
