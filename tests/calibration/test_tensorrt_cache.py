from __future__ import annotations

import struct

import numpy as np
import onnx
import pytest

from edgewise.calibration.placement import candidate_tensors
from edgewise.calibration.table import CalibrationTable
from edgewise.calibration.tensorrt_cache import read_tensorrt_cache, version_tag, write_tensorrt_cache
from edgewise.runtime.system.errors import CalibrationError

NVIDIAS = b"""TRT-8601-EntropyCalibration2
Input_0: 3c010a14
(Unnamed Layer* 0) [Convolution]_output: 3d6f4a3e
conv: 1: 3f800000
"""


def test_round_trip(residual: onnx.ModelProto, table: CalibrationTable) -> None:
    tensors = candidate_tensors(residual)
    data = write_tensorrt_cache(table, tensors)
    assert data.startswith(b"TRT-8601-EntropyCalibration2\n")
    assert data.endswith(b"\n")
    found = read_tensorrt_cache(data)
    assert list(found) == list(tensors)
    for tensor in tensors:
        assert np.float32(found[tensor]) == np.float32(table.scale_of(tensor))


def test_the_form_is_tensorrts() -> None:
    scales = read_tensorrt_cache(NVIDIAS)
    assert scales["Input_0"] == struct.unpack(">f", bytes.fromhex("3c010a14"))[0]
    assert scales["Input_0"] == pytest.approx(1 / 127, rel=1e-3)
    assert scales["conv: 1"] == 1.0


def test_one_line(table: CalibrationTable) -> None:
    digits = struct.pack(">f", table.scale_of("a_out")).hex()
    expected = f"TRT-100300-EntropyCalibration2\na_out: {digits}\n"
    assert write_tensorrt_cache(table, ["a_out"], version=version_tag(10, 3, 0)).decode() == expected


@pytest.mark.parametrize(
    ("version", "tag"),
    [((8, 6, 1), "8601"), ((8, 2, 1), "8201"), ((10, 3, 0), "100300"), ((10, 16, 2), "101602")],
)
def test_version_tags(version: tuple[int, int, int], tag: str) -> None:
    assert version_tag(*version) == tag


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"TRT-8601-MinMaxCalibration\na: 3f800000\n",
        b"TRT-8601-EntropyCalibration2\na 3f800000\n",
        b"TRT-8601-EntropyCalibration2\na: 3f80\n",
        b"TRT-8601-EntropyCalibration2\na: 3f800000\na: 3f800000\n",
    ],
)
def test_what_is_no_cache(data: bytes) -> None:
    with pytest.raises(CalibrationError, match="cache"):
        read_tensorrt_cache(data)


def test_tensors_must_have_ranges_and_one_line_names(table: CalibrationTable) -> None:
    with pytest.raises(CalibrationError, match="no range"):
        write_tensorrt_cache(table, ["nobody"])
