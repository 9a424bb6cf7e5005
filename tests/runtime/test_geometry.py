"""Geometry: there and back, and refusal of maps without an inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.pixels.geometry import Geometry, scaling
from edgewise.runtime.system.errors import ResultError

factors = st.floats(0.01, 100)
offsets = st.floats(-1000, 1000)
points = st.lists(st.tuples(offsets, offsets), min_size=1, max_size=5)


@given(factors, factors, offsets, offsets, st.floats(-1.5, 1.5), points)
@settings(deadline=None)
def test_points_come_back(scale_x, scale_y, offset_x, offset_y, angle, corners):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = np.diag([scale_x, scale_y]) @ turn
    geometry = Geometry((10, 20), (5, 5), np.concatenate([linear, [[offset_x], [offset_y]]], axis=1))
    there = geometry.to_network(np.array(corners))
    assert there.shape == (len(corners), 2)
    np.testing.assert_allclose(geometry.to_source(there), corners, rtol=0, atol=1e-6)


def test_half_the_size_halves_coordinates():
    geometry = scaling((100, 200), (50, 100), (0.5, 0.5), (0.0, 4.0))
    np.testing.assert_array_equal(
        geometry.to_network(np.array([[[0, 0], [200, 100]]])), [[[0, 4], [100, 54]]]
    )


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((2, 3)),
        np.eye(3),
        np.array([[1, 0, np.nan], [0, 1, 0]]),
        np.array([[1, 2, 0], [2, 4, 0.0]]),
        np.eye(2, 3, dtype=np.float32),
    ],
)
def test_a_map_without_inverse_is_refused(matrix):
    with pytest.raises(ResultError):
        Geometry((4, 4), (4, 4), matrix)


@pytest.mark.parametrize(
    "linear", [[[0, 1], [-1, 0]], [[1, 0.1], [0, 1]], [[-1, 0], [0, 1]], [[1, 0], [0, -1]]]
)
def test_only_upright_maps_have_axes(linear):
    matrix = np.concatenate([np.array(linear, np.float64), np.zeros((2, 1))], axis=1)
    with pytest.raises(ResultError):
        Geometry((4, 4), (4, 4), matrix).axes()


def test_axes():
    across, down = scaling((100, 200), (50, 60), (0.3, 0.5), (1.0, 2.0)).axes()
    assert (across.scale, across.offset, across.source_length, across.network_length) == (0.3, 1.0, 200, 60)
    assert (down.scale, down.offset, down.source_length, down.network_length) == (0.5, 2.0, 100, 50)
