from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.calibration.table import (
    CalibrationTable,
    decode_table,
    encode_table,
    symmetric_scale,
)
from edgewise.runtime.system.errors import CalibrationError


def test_round_trip(table: CalibrationTable) -> None:
    data = encode_table(table)
    assert decode_table(data) == table
    document = json.loads(data)
    assert list(document["tensors"]["a_out"]) == ["minimum", "maximum", "amax", "method", "unbounded"]
    assert list(document["tensors"]) == list(table.tensors)


def damaged(table: CalibrationTable, **changes: object) -> bytes:
    return json.dumps({**json.loads(encode_table(table)), **changes}).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"surprise": 1}, "not a calibration table"),
        ({"tensors": {}}, "no tensor"),
        ({"samples_sha256": "abc"}, "not a calibration table"),
        ({"sample_count": 0}, "not a calibration table"),
        ({"method": "guess"}, "not a calibration table"),
        ({"tensors": {"a": {"minimum": 1.0, "maximum": 0.0, "amax": 1.0, "method": "mse"}}}, "cannot be"),
        ({"tensors": {"a": {"minimum": 0.0, "maximum": 1.0, "amax": 2.0, "method": "mse"}}}, "above"),
        ({"tensors": {"a": {"minimum": 0.0, "maximum": 1.0, "amax": -1.0, "method": "mse"}}}, "not a cal"),
        ({"tensors": {"a": {"minimum": 0.0, "maximum": 1e999, "amax": 1.0, "method": "mse"}}}, "cal|cannot"),
    ],
)
def test_reading_is_strict(table: CalibrationTable, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        decode_table(damaged(table, **changes))


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff"])
def test_what_is_no_table(data: bytes) -> None:
    with pytest.raises(CalibrationError, match="not a calibration table"):
        decode_table(data)


def test_unknown_tensor(table: CalibrationTable) -> None:
    with pytest.raises(CalibrationError, match="no range for this tensor"):
        table.scale_of("nobody")


@given(st.floats(0, 1e30))
def test_scales_are_normal_float32_and_reach_amax(amax: float) -> None:
    scale = symmetric_scale(amax)
    assert np.float32(scale) == scale
    assert scale >= np.finfo(np.float32).tiny
    if amax > 1e-30:
        assert 127 * scale == pytest.approx(amax, rel=1e-6)
