"""Heatmaps to points: the rules beside a loop over joints, the way back to the frame, wrong outputs."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgewise.runtime.contract.manifest import ClassLabel, Graph, KeypointLayout, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import CellPlace, HeatmapDecoding, HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop, Stretch
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.kinds.keypoints.cells import cells_to_source
from edgewise.runtime.kinds.keypoints.decode import (
    average_mirrored,
    decode_heatmaps,
    person_scores,
)
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.pixels.geometry import Geometry
from edgewise.runtime.system.errors import ResultError

QUARTER, DARK = HeatmapDecoding.QUARTER_PIXEL, HeatmapDecoding.DARK
LAYOUT = KeypointLayout(
    names=("nose", "left_eye", "right_eye"), flip_pairs=((1, 2),), limbs=((0, 1), (0, 2)), sigmas=(0.1,) * 3
)


def quarter_rule(heatmap: np.ndarray) -> tuple[float, float, float]:
    """One map, as the facts say it: first maximum, a quarter towards the greater neighbour, cell centres."""
    height, width = heatmap.shape
    flat = [float(value) for value in heatmap.ravel()]
    first = flat.index(max(flat))
    row, column = first // width, first % width
    x, y = column + 0.5, row + 0.5
    if 1 <= column <= width - 2 and 1 <= row <= height - 2:
        across = float(heatmap[row, column + 1]) - float(heatmap[row, column - 1])
        down = float(heatmap[row + 1, column]) - float(heatmap[row - 1, column])
        x += math.copysign(0.25, across) if across else 0
        y += math.copysign(0.25, down) if down else 0
    return x, y, min(max(flat[first], 0.0), 1.0)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
        # Few values, so that maxima and neighbours are often equal.
        elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 1.5]),
    )
)
def test_the_quarter_rule_is_the_loop_over_joints(heatmaps):
    cells, scores = decode_heatmaps(heatmaps, QUARTER)
    for person in range(heatmaps.shape[0]):
        for joint in range(heatmaps.shape[1]):
            x, y, score = quarter_rule(heatmaps[person, joint])
            assert cells[person, joint].tolist() == [x, y]
            assert scores[person, joint] == np.float32(score)


def quarter_always_rule(heatmap: np.ndarray) -> tuple[float, float, float]:
    """One map, as princeton's code has it: held below 1, never no step, neighbours held inside the map."""
    held = np.minimum(heatmap, 1)
    height, width = held.shape
    row, column = divmod(int(held.argmax()), width)
    peak = float(held[row, column])
    x, y = column + 0.5, row + 0.5
    if peak > 0:
        right, left = held[row, min(column + 1, width - 1)], held[row, max(column - 1, 0)]
        down, up = held[min(row + 1, height - 1), column], held[max(row - 1, 0), column]
        x += 0.25 if right > left else -0.25
        y += 0.25 if down > up else -0.25
    return x, y, max(peak, 0.0)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
        elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 1.5]),
    )
)
def test_the_quarter_that_is_always_taken_is_the_loop_over_joints(heatmaps):
    cells, scores = decode_heatmaps(heatmaps, HeatmapDecoding.QUARTER_ALWAYS)
    for person in range(heatmaps.shape[0]):
        for joint in range(heatmaps.shape[1]):
            x, y, score = quarter_always_rule(heatmaps[person, joint])
            assert cells[person, joint].tolist() == [x, y]
            assert scores[person, joint] == np.float32(score)


def test_borders_and_equal_neighbours_tell_the_two_quarter_rules_apart():
    corner, ridge = np.zeros((2, 1, 1, 5, 5), np.float32)
    corner[0, 0, 0, 4] = 0.9
    ridge[0, 0, 2, 2] = 0.9
    maps = np.concatenate([corner, ridge])
    assert decode_heatmaps(maps, QUARTER)[0].tolist() == [[[4.5, 0.5]], [[2.5, 2.5]]]
    always = decode_heatmaps(maps, HeatmapDecoding.QUARTER_ALWAYS)[0]
    assert always.tolist() == [[[4.75, 0.25]], [[2.25, 2.25]]]


def gaussian(centres: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """float32 [..., h, w]; centres [..., 2] as x and y in continuous cells."""
    x, y = np.arange(size[1]) + 0.5, np.arange(size[0])[:, None] + 0.5
    squared = (x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2
    return np.exp(-squared / (2 * sigma**2)).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.floats(1.0, 3.0))
@settings(max_examples=30)
def test_dark_finds_the_centre_of_a_gaussian(seed, sigma):
    """Away from the border, where the zeros around the map would pull."""
    centres = np.random.default_rng(seed).uniform(14, [34, 50], (2, 5, 2))
    cells, _ = decode_heatmaps(gaussian(centres, (64, 48), sigma), DARK)
    assert np.abs(cells - centres).max() < 0.05


def test_the_quarter_rule_finds_a_gaussian_to_a_quarter():
    centres = np.random.default_rng(0).uniform(14, [34, 50], (4, 17, 2))
    cells, scores = decode_heatmaps(gaussian(centres, (64, 48), 2.0), QUARTER)
    assert np.abs(cells - centres).max() <= 0.25 + 1e-6
    assert (scores > 0.9).all()


def dark_of_one_map(heatmap: np.ndarray) -> list[float]:
    """The facts' order of steps: blur the whole map, restore its maximum, logarithm, Taylor step."""
    import cv2

    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    padded = np.pad(heatmap.astype(np.float64), 5)
    smooth = cv2.GaussianBlur(padded, (11, 11), 0)[5:-5, 5:-5]
    logs = np.log(np.maximum(smooth * (heatmap.max() / smooth.max()), 1e-10))
    if not (1 < column < heatmap.shape[1] - 2 and 1 < row < heatmap.shape[0] - 2):
        return [column + 0.5, row + 0.5]
    around = logs[row - 2 : row + 3, column - 2 : column + 3]
    gradient = 0.5 * np.array([around[2, 3] - around[2, 1], around[3, 2] - around[1, 2]])
    dxx = 0.25 * (around[2, 4] - 2 * around[2, 2] + around[2, 0])
    dyy = 0.25 * (around[4, 2] - 2 * around[2, 2] + around[0, 2])
    dxy = 0.25 * (around[3, 3] - around[3, 1] - around[1, 3] + around[1, 1])
    step = -np.linalg.solve([[dxx, dxy], [dxy, dyy]], gradient)
    return [column + 0.5 + step[0], row + 0.5 + step[1]]


def test_dark_is_the_published_order_of_steps():
    """Peaks anywhere, also near and on the border, with a second hill and noise."""
    rng = np.random.default_rng(3)
    centres = rng.uniform(0, [24, 32], (40, 1, 2))
    other = rng.uniform(0, [24, 32], (40, 1, 2))
    maps = gaussian(centres, (32, 24), 2.0) + np.float32(0.5) * gaussian(other, (32, 24), 3.0)
    maps += rng.random(maps.shape, np.float32) * np.float32(0.02)
    cells, _ = decode_heatmaps(maps, DARK)
    expected = np.array([dark_of_one_map(heatmap) for heatmap in maps[:, 0]])
    np.testing.assert_allclose(cells[:, 0], expected, atol=1e-6)


def test_dark_takes_no_step_where_the_surface_is_no_peak():
    flat = np.full((1, 1, 9, 9), 0.5, np.float32)
    flat[0, 0, 4, 4] = 0.6
    flat[0, 0, 4, 5:] = 5.0
    flat[0, 0, 0, 0] = 6.0
    ridge = np.zeros((1, 1, 40, 40), np.float32)
    ridge[..., 20, :] = np.linspace(0.1, 1, 40)
    ridge[..., 20, 36:] = 0
    cells, _ = decode_heatmaps(np.concatenate([np.zeros_like(ridge), ridge]), DARK)
    assert np.abs(cells[1, 0] - [35.5, 20.5]).max() <= 2
    assert cells[0, 0].tolist() == [0.5, 0.5]
    assert decode_heatmaps(flat, DARK)[0][0, 0].tolist() == [0.5, 0.5]


@given(arrays(np.float32, (1, 2, 9, 9), elements=st.floats(-1, 1, width=32)))
def test_dark_stays_near_the_maximum(heatmaps):
    cells, _ = decode_heatmaps(heatmaps, DARK)
    rows, columns = np.divmod(heatmaps.reshape(2, -1).argmax(axis=1), 9)
    assert np.abs(cells[0] - np.stack([columns, rows], axis=1) - 0.5).max() <= 2


@pytest.mark.parametrize("decoding", [QUARTER, DARK])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(decoding, value):
    heatmaps = np.zeros((1, 2, 8, 8), np.float32)
    heatmaps[0, 1, 3, 3] = value
    with pytest.raises(ResultError, match="not finite"):
        decode_heatmaps(heatmaps, decoding)


def test_a_map_without_a_positive_value_scores_nothing():
    heatmaps = np.full((1, 1, 5, 5), -0.5, np.float32)
    heatmaps[0, 0, 2, 3] = -0.1
    cells, scores = decode_heatmaps(heatmaps, QUARTER)
    assert scores.tolist() == [[0.0]]
    assert cells[0, 0].tolist() == [3.5, 2.5]


# ---------------------------------------------------------------- flip test


@given(arrays(np.float32, (2, 3, 4, 5), elements=st.floats(-1, 1, width=32)))
def test_mirroring_what_is_symmetric_changes_nothing(heatmaps):
    """The mirrored look of a network without a preferred side gives the mirrored maps, sides exchanged."""
    mirrored = heatmaps[:, [0, 2, 1], :, ::-1]
    np.testing.assert_array_equal(average_mirrored(heatmaps, mirrored, LAYOUT.flip_pairs), heatmaps)


def test_the_flip_test_averages():
    straight, mirrored = np.zeros((1, 3, 2, 4), np.float32), np.zeros((1, 3, 2, 4), np.float32)
    straight[0, 1, 1, 0] = 0.8
    mirrored[0, 2, 1, 3] = 0.4
    averaged = average_mirrored(straight, mirrored, LAYOUT.flip_pairs)
    assert averaged[0, 1, 1, 0] == np.float32(0.6)
    assert np.count_nonzero(averaged) == 1


# ---------------------------------------------------------------- back to the frame


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(256, 192), (64, 64), (384, 288)]),
    st.sampled_from([1, 4]),
)
def test_points_come_back_through_their_own_crop(seed, network, stride):
    rng = np.random.default_rng(seed)
    map_size = (network[0] // stride, network[1] // stride)
    geometries = []
    for _ in range(4):
        angle, scale = rng.uniform(-math.pi, math.pi), rng.uniform(0.1, 4)
        turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = np.concatenate([turn, rng.uniform(-300, 300, (2, 1))], axis=1)
        geometries.append(Geometry((480, 640), network, matrix))
    cells = rng.uniform(-3, 70, (4, 6, 2))
    source = cells_to_source(CellPlace.CENTRE, cells, map_size, geometries)
    for geometry, back, there in zip(geometries, source, cells, strict=True):
        np.testing.assert_allclose(geometry.to_network(back) / stride, there, atol=1e-9)
        np.testing.assert_allclose(back, geometry.to_source(there * stride), atol=1e-9)


def test_scores_of_people():
    points = np.array([[0.9, 0.5, 0.1], [0.1, 0.0, 0.05], [0.2, 0.0, 0.0]], np.float32)
    scores = person_scores(np.array([0.5, 1.0, 1.0], np.float32), points, 0.2)
    np.testing.assert_allclose(scores, [0.35, 0.0, 0.2], rtol=1e-6)
    assert scores.dtype == np.float32


# ---------------------------------------------------------------- the whole of it


def manifest(preprocess=None, **fields) -> Manifest:
    return Manifest(
        writer="edgewise tests",
        name="pose",
        classes=(ClassLabel(id=1, name="person"),),
        keypoints=LAYOUT,
        provenance=Provenance(definition="tests"),
        graphs={"main": Graph(inputs=(), outputs=())},
        preprocess=preprocess or AffineCrop(size=(64, 48)),
        postprocess=HeatmapKeypoints(**fields),
    )


BOXES = FrameBoxes(
    np.array([[20, 30, 80, 120], [100, 40, 130, 160]], np.float64), np.array([0.5, 1.0], np.float32)
)
FRAME = np.zeros((200, 300, 3), np.uint8)
TRUTH = np.array([[[40, 60], [50, 75], [30, 80]], [[112, 80], [118, 100], [105, 120]]], np.float64)


def outputs_for(looks, shift=0.0):
    """Gaussians where the true points lie in each look; mirrored looks see the mirrored person."""
    outputs = []
    straight = [look for look in looks.looks if not look.mirrored]
    for look in looks.looks:
        person = next(index for index, one in enumerate(straight) if one.geometry is look.geometry)
        cells = look.geometry.to_network(TRUTH[person]) / 4
        if look.mirrored:
            cells = np.stack([12 - cells[[0, 2, 1], 0] + shift, cells[[0, 2, 1], 1]], axis=1)
        outputs.append({"heatmaps": gaussian(cells, (16, 12), 1.5)[None]})
    return outputs


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("decoding", [QUARTER, DARK])
def test_people_come_back_to_the_frame(flip_test, decoding):
    model = manifest(flip_test=flip_test, decoding=decoding, display_threshold=0.3)
    looks = looks_of(model, FRAME, BOXES)
    found = decode_result(model, looks, outputs_for(looks))
    assert isinstance(found, Keypoints)
    # A quarter of a cell is up to 2.9 source pixels in these crops.
    assert np.abs(found.points - TRUTH).max() < (3.0 if decoding is QUARTER else 0.6)
    np.testing.assert_array_equal(found.boxes, BOXES.boxes.astype(np.float32))
    np.testing.assert_allclose(found.scores, BOXES.scores * found.point_scores.mean(axis=1), rtol=1e-6)
    assert found.names == ("person", "person")
    assert (found.frame_size, found.display_threshold, found.point_threshold) == ((200, 300), 0.3, 0.2)


def test_the_flip_test_halves_what_one_look_gets_wrong():
    model = manifest(flip_test=True, decoding=DARK)
    looks = looks_of(model, FRAME, BOXES)
    found = decode_result(model, looks, outputs_for(looks, shift=1.0))
    error = found.points[..., 0] - TRUTH[..., 0]
    scale = np.array([look.geometry.matrix[0, 0] for look in looks.looks[::2]])[:, None]
    np.testing.assert_allclose(error, np.broadcast_to(-0.5 * 4 / scale, error.shape), atol=0.6)


def test_no_people():
    model = manifest(flip_test=True)
    nobody = FrameBoxes(np.zeros((0, 4), np.float64), np.zeros(0, np.float32))
    found = decode_result(model, looks_of(model, FRAME, nobody), [])
    assert len(found) == 0
    assert found.records(1) == []
    assert (found.draw(FRAME) == 0).all()


def test_a_model_of_whole_frames_sees_one_person():
    model = manifest(Stretch(size=(64, 48)))
    looks = looks_of(model, FRAME)
    heatmaps = np.zeros((1, 3, 16, 12), np.float32)
    heatmaps[0, :, 8, 6] = 0.7
    found = decode_result(model, looks, [{"heatmaps": heatmaps}])
    np.testing.assert_allclose(found.points[0, 0], [6.5 / 12 * 300, 8.5 / 16 * 200], rtol=1e-6)
    np.testing.assert_array_equal(found.boxes, [[0, 0, 300, 200]])


def test_the_looks_must_be_those_of_the_manifest():
    plain, flipped = manifest(), manifest(flip_test=True)
    looks = looks_of(plain, FRAME, BOXES)
    with pytest.raises(ResultError, match="flip test"):
        decode_result(flipped, looks, outputs_for(looks))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a[0], r"\[3, 16, 12\]"),
        (lambda a: a[:, :2], r"\[1, 2, 16, 12\]"),
        (lambda a: a.astype(np.float16), "float16"),
        (lambda a: np.concatenate([a, a]), r"\[2, 3, 16, 12\]"),
        (lambda a: np.full_like(a, np.nan), "not finite"),
    ],
)
def test_wrong_heatmaps_are_named(change, says):
    model = manifest()
    looks = looks_of(model, FRAME, BOXES)
    outputs = outputs_for(looks)
    outputs[1]["heatmaps"] = change(outputs[1]["heatmaps"])
    with pytest.raises(ResultError, match=says) as caught:
        decode_result(model, looks, outputs)
    assert "'heatmaps'" in str(caught.value)


def test_a_missing_output_is_named():
    model = manifest()
    looks = looks_of(model, FRAME, BOXES)
    with pytest.raises(ResultError, match="no output 'heatmaps'"):
        decode_result(model, looks, [{"maps": output["heatmaps"]} for output in outputs_for(looks)])


def test_a_layout_without_flip_pairs_keeps_every_channel():
    layout = msgspec.structs.replace(LAYOUT, flip_pairs=())
    maps = np.random.default_rng(0).random((1, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(average_mirrored(maps, maps[..., ::-1], layout.flip_pairs), maps)
