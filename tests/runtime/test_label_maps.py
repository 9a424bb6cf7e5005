"""Label maps against their slow definitions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.pixels.geometry import Axis, Geometry, scaling
from edgewise.runtime.pixels.label_maps import (
    label_runs,
    narrowest,
    nearest_grid,
    nearest_line,
    rename_labels,
)
from edgewise.runtime.system.errors import ResultError

sides = st.integers(1, 24)


def random_map(seed, size, values, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, values, size).astype(dtype)


@given(
    st.integers(0, 999), sides, sides, st.integers(1, 5), st.sampled_from([np.uint8, np.uint16, np.uint32])
)
@settings(max_examples=60, deadline=None)
def test_runs_give_areas_and_tight_boxes(seed, height, width, values, dtype):
    labels = random_map(seed, (height, width), values, dtype)
    runs = label_runs(labels)
    count = values + 1
    for label, (area, box) in enumerate(zip(runs.areas(count), runs.boxes(count).tolist(), strict=True)):
        rows, columns = np.nonzero(labels == label)
        assert area == len(rows)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4
        assert box == expected


def test_runs_can_be_renamed_without_the_map():
    labels = random_map(3, (20, 30), 6)
    names = np.array([0, 2, 2, 1, 0, 2], np.uint16)
    renamed, anew = label_runs(labels).renamed(names), label_runs(names[labels])
    np.testing.assert_array_equal(renamed.areas(3), anew.areas(3))
    np.testing.assert_array_equal(renamed.boxes(3), anew.boxes(3))


@pytest.mark.parametrize("size", [(0, 7), (5, 0), (0, 0)])
def test_a_map_without_pixels_has_no_runs(size):
    runs = label_runs(np.zeros(size, np.uint8))
    assert runs.areas(2).tolist() == [0, 0]
    assert runs.boxes(2).tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("labels", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("names", [np.uint8, np.uint16, np.uint32])
def test_renaming_is_indexing(labels, names):
    table = np.random.default_rng(0).integers(0, 200, 90).astype(names)
    for size in ((13, 9), (1, 40), (40, 1), (0, 4)):
        source = random_map(1, size, 90, labels)
        renamed = rename_labels(source, table)
        assert renamed.dtype == names
        np.testing.assert_array_equal(renamed, table[source])


@pytest.mark.parametrize(
    ("count", "dtype"), [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)]
)
def test_the_narrowest_dtype_holds_the_last_label(count, dtype):
    assert narrowest(count) == dtype
    assert np.iinfo(dtype).max >= count - 1


def slow_cells(axis, cells):
    """The rule pixel by pixel in exact fractions of the given floats, -1 for none."""
    scale, offset = Fraction(axis.scale), Fraction(axis.offset)
    result = []
    for pixel in range(axis.source_length):
        place = ((pixel + Fraction(1, 2)) * scale + offset) * cells / axis.network_length
        cell = math.floor(Fraction(round(place * (1 << 22)), 1 << 22))
        result.append(cell if 0 <= cell < cells else -1)
    return result


def cells_of(line):
    result = np.full(line.pixels, -1)
    for cell, begin, end in zip(line.cells, line.edges[:-1], line.edges[1:], strict=True):
        result[begin:end] = cell
    return result.tolist()


@given(
    source=st.integers(1, 200),
    network=st.integers(1, 200),
    cells=st.integers(1, 60),
    scale=st.floats(0.02, 20),
    offset=st.floats(-150, 150),
)
@settings(max_examples=200, deadline=None)
def test_cells_follow_the_rule_for_any_scale_and_offset(source, network, cells, scale, offset):
    axis = Axis(scale, offset, source, network)
    line = nearest_line(axis, cells)
    found, wanted = np.array(cells_of(line)), np.array(slow_cells(axis, cells))
    # Float rounding may move a centre by one step of 2**-22 cells, never farther.
    doubtful = found != wanted
    place = ((np.arange(source) + 0.5) * scale + offset) * cells / network
    assert (np.abs(place - np.rint(place))[doubtful] < 2.0**-21).all()
    assert (line.repeats > 0).all()
    assert (np.diff(line.cells) > 0).all()


@given(source=st.integers(1, 400), network=st.integers(1, 400), stride=st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_a_stretch_is_exact_integer_arithmetic(source, network, stride):
    """network = source * network / source: the cell of pixel p is floor((2 p + 1) cells / (2 source))."""
    cells = max(1, network // stride)
    line = nearest_line(Axis(network / source, 0.0, source, network), cells)
    assert cells_of(line) == [(2 * pixel + 1) * cells // (2 * source) for pixel in range(source)]


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_weights_and_boxes_are_those_of_the_spread_map(data):
    frame = data.draw(st.tuples(sides, sides))
    network = data.draw(st.tuples(sides, sides))
    cells = data.draw(st.tuples(sides, sides))
    scale = data.draw(st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)))
    offset = data.draw(st.tuples(st.floats(-20, 20), st.floats(-20, 20)))
    grid = nearest_grid(scaling(frame, network, scale, offset), cells)
    labels = random_map(data.draw(st.integers(0, 99)), cells, 4)
    seen = grid.seen(labels)
    spread = grid.spread(seen, outside=4)
    assert spread.shape == frame == grid.frame_size
    assert spread.dtype == labels.dtype
    areas = np.bincount(seen.ravel(), grid.weights().ravel(), minlength=4)
    np.testing.assert_array_equal(areas, label_runs(spread).areas(5)[:4])
    np.testing.assert_array_equal(grid.boxes(label_runs(seen).boxes(4)), label_runs(spread).boxes(5)[:4])
    across, down = scaling(frame, network, scale, offset).axes()
    columns, rows = cells_of(nearest_line(across, cells[1])), cells_of(nearest_line(down, cells[0]))
    slow = [[4 if min(row, column) < 0 else labels[row, column] for column in columns] for row in rows]
    np.testing.assert_array_equal(spread, slow)


def test_a_turned_geometry_is_refused():
    turned = Geometry((9, 9), (9, 9), np.array([[0.0, 1, 0], [1, 0, 0]]))
    with pytest.raises(ResultError, match="turned"):
        nearest_grid(turned, (3, 3))
