"""Preprocessing: the pixels lie where the returned geometry says, and wrong frames are refused.

The reference samples the frame in float64 at `geometry.to_source` of every network pixel centre, bilinear
with the frame's edge repeated.
"""

from __future__ import annotations

import math

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.contract.preprocessing import (
    AffineCrop,
    AsIs,
    CentredFrame,
    ColourOrder,
    CropCorners,
    Interpolation,
    Letterbox,
    PadSide,
    PixelRule,
    ShortestEdge,
    SideRounding,
    Stretch,
)
from edgewise.runtime.frames.preprocessing import (
    crop_source,
    letterbox_size,
    preprocess,
    shortest_edge_size,
)
from edgewise.runtime.system.errors import ManifestError, SourceError

lengths = st.integers(1, 70)
sizes = st.tuples(lengths, lengths)
rules = st.sampled_from(PixelRule)


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def smooth(size):
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(x / 19 + 1), np.cos(y / 23), np.sin((x + y) / 31)]
    return np.stack([127 + 120 * wave for wave in waves], axis=2).astype(np.uint8)


def centres(size):
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    return np.stack([x, y], axis=2)


def sample(frame, points):
    height, width = frame.shape[:2]
    x = np.clip(points[..., 0] - 0.5, 0, width - 1)
    y = np.clip(points[..., 1] - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    tx, ty = (x - left)[..., None], (y - top)[..., None]
    pixels = frame.astype(np.float64)
    above = pixels[top, left] * (1 - tx) + pixels[top, right] * tx
    below = pixels[bottom, left] * (1 - tx) + pixels[bottom, right] * tx
    return above * (1 - ty) + below * ty


def inside(points, size, slack=0.0):
    x, y = points[..., 0], points[..., 1]
    return (x > -slack) & (y > -slack) & (x < size[1] + slack) & (y < size[0] + slack)


@given(sizes, sizes, rules)
@settings(deadline=None)
def test_stretch_samples_where_its_geometry_says(source, target, rule):
    frame = noise(source)
    tensor, geometry = preprocess(Stretch(size=target, pixel_rule=rule), frame)
    assert (geometry.source_size, geometry.network_size) == (source, target)
    assert tensor.shape == (1, *target, 3)
    assert np.abs(tensor[0] - sample(frame, geometry.to_source(centres(target)))).max() <= 1


@given(sizes, sizes, rules, st.sampled_from(PadSide), st.sampled_from(ColourOrder))
@settings(deadline=None)
def test_letterbox_samples_where_its_geometry_says(source, target, rule, side, colour):
    frame = noise(source)
    spec = Letterbox(size=target, pixel_rule=rule, pad_side=side, pad_value=(1, 2, 3), colour=colour)
    tensor, geometry = preprocess(spec, frame)
    _check_padded(spec, frame, tensor, geometry, letterbox_size(source, target))


@given(
    sizes,
    st.integers(1, 40),
    st.integers(0, 40),
    rules,
    st.sampled_from(PadSide),
    st.sampled_from(SideRounding),
    st.sampled_from([None, (24, 30), (30, 9)]),
)
@settings(deadline=None)
def test_shortest_edge_samples_where_its_geometry_says(source, shortest, more, rule, side, rounding, small):
    """On a canvas that holds every frame, and on one that they are shrunk to fit."""
    frame = noise(source)
    spec = ShortestEdge(
        shortest=shortest,
        longest=shortest + more,
        size=small or (81, 82),
        rounding=rounding,
        shrink_to_fit=small is not None,
        pixel_rule=rule,
        pad_side=side,
    )
    tensor, geometry = preprocess(spec, frame)
    inner = shortest_edge_size(source, spec)
    assert max(inner) <= shortest + more
    _check_padded(spec, frame, tensor, geometry, inner)


@given(st.tuples(st.integers(1, 60), st.integers(1, 60)), st.sampled_from([(32, 32), (20, 44)]))
@settings(deadline=None)
def test_a_centred_frame_is_warped_by_the_published_matrix(source, size):
    """CenterNet's three points: the centre, half a side above it, and the one that completes the angle."""
    frame = noise(source)
    tensor, geometry = preprocess(CentredFrame(size=size, pad_value=(7, 8, 9)), frame)
    scale = min(size[0] / source[0], size[1] / source[1])
    centre, target = np.array(source[::-1]) / 2, np.array(size[::-1]) / 2
    matrix = np.array([[scale, 0, target[0] - scale * centre[0]], [0, scale, target[1] - scale * centre[1]]])
    np.testing.assert_allclose(geometry.matrix, matrix, atol=1e-9)
    inverse = (np.stack(np.meshgrid(range(size[1]), range(size[0])), axis=-1) - target) / scale + centre
    padded = np.pad(frame.astype(float), ((1, 1), (1, 1), (0, 0)), constant_values=0)
    padded[[0, -1]], padded[:, [0, -1]] = (7, 8, 9), (7, 8, 9)
    x, y = np.clip(inverse[..., 0] + 1, 0, source[1] + 1), np.clip(inverse[..., 1] + 1, 0, source[0] + 1)
    left, top = np.minimum(x.astype(int), source[1]), np.minimum(y.astype(int), source[0])
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = padded[top, left] * (1 - across) + padded[top, left + 1] * across
    lower = padded[top + 1, left] * (1 - across) + padded[top + 1, left + 1] * across
    # Positions are rounded to 1/32 pixel on each axis, and neighbours of noise lie up to 255 apart.
    assert np.abs(tensor[0] - (upper * (1 - down) + lower * down)).max() <= 2 * 255 / 64 + 1


def test_a_centred_frame_keeps_its_size_or_is_refused():
    frame = noise((21, 30))
    tensor, geometry = preprocess(CentredFrame(size=(32, 33), keep_size=True), frame)
    np.testing.assert_array_equal(tensor[0, 6:27, 1:31], frame)
    assert not tensor[0, :6].any()
    np.testing.assert_allclose(geometry.to_source(np.array([[1.0, 6.0]])), 0)
    with pytest.raises(SourceError, match="keeps the size"):
        preprocess(CentredFrame(size=(20, 64), keep_size=True), frame)


def _check_padded(spec, frame, tensor, geometry, inner):
    points = geometry.to_source(centres(spec.size))
    expected = sample(frame, points)
    if spec.colour is ColourOrder.RGB:
        expected = expected[..., ::-1]
    spare = spec.size[0] - inner[0], spec.size[1] - inner[1]
    top, left = (spare[0] // 2, spare[1] // 2) if spec.pad_side is PadSide.BOTH else (0, 0)
    content = np.zeros(spec.size, bool)
    content[top : top + inner[0], left : left + inner[1]] = True
    assert np.abs(tensor[0] - expected)[content].max() <= 1
    assert (tensor[0][~content] == spec.pad_value).all()
    # The picture's own extent maps to its content and nothing else (a sharper rule than the pixels show).
    if spec.pixel_rule is PixelRule.HALF_PIXEL:
        assert (inside(points, frame.shape[:2]) == content).all()
        corners = geometry.to_network(np.array([[0, 0], frame.shape[1::-1]]))
        np.testing.assert_allclose(corners, [[left, top], [left + inner[1], top + inner[0]]], atol=1e-9)


@given(
    st.tuples(st.floats(-20, 90), st.floats(-20, 90), st.floats(4, 80), st.floats(4, 80)),
    st.tuples(st.integers(2, 60), st.integers(2, 60)),
    st.floats(1, 2),
    rules,
)
@settings(deadline=None)
def test_a_crop_samples_where_its_geometry_says(place, target, padding, rule):
    x, y, w, h = place
    frame = smooth((90, 120))
    spec = AffineCrop(size=target, padding=padding, pixel_rule=rule, pad_value=(9, 9, 9))
    tensor, geometry = preprocess(spec, frame, box=(x, y, x + w, y + h))
    points = geometry.to_source(centres(target))
    # The border's colour is blended in within half a pixel of the edge, and positions are rounded.
    well_inside, well_outside = inside(points, (90, 120), -1), ~inside(points, (90, 120), 1)
    difference = np.abs(tensor[0] - sample(frame, points))[well_inside]
    assert difference.max(initial=0) <= 2
    assert (tensor[0][well_outside] == 9).all()
    centre = geometry.to_network(np.array([x + w / 2, y + h / 2]))
    np.testing.assert_allclose(centre, [target[1] / 2, target[0] / 2], atol=1e-6)
    if rule is PixelRule.HALF_PIXEL:
        corners = geometry.to_network(np.array([[x, y], [x + w, y + h]]))
        assert inside(corners, target, 1e-6).all()
        extents = (corners[1] - corners[0]) * padding / [target[1], target[0]]
        np.testing.assert_allclose(extents.max(), 1, atol=1e-6)


def published_crop(frame: np.ndarray, centre: np.ndarray, scale: float, side: int, first: int) -> np.ndarray:
    """As the facts have it: square corners cut off towards 0, zeros outside of the frame, a resize of floats.

    `first` is what coordinates count from; from 1, a crop of twice `side` or more is cut from a shrunk frame.
    """
    frame = frame.astype(np.float32)
    if first and scale * 200 / side >= 2:
        factor = scale * 200 / side
        height, width = (math.floor(length / factor) for length in frame.shape[:2])
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        centre, scale = centre / factor, scale / factor
    unit = 200 * scale
    forward = np.array(
        [
            [side / unit, 0, side * (-centre[0] / unit + 0.5)],
            [0, side / unit, side * (-centre[1] / unit + 0.5)],
            [0, 0, 1],
        ]
    )
    back = np.linalg.inv(forward)
    low, high = ((back @ [at - first, at - first, 1.0])[:2].astype(int) + first for at in (0, side))
    cut = np.zeros((high[1] - low[1], high[0] - low[0], 3), np.float32)
    for y in range(max(low[1], 0), min(high[1], len(frame))):
        left, right = max(low[0], 0), min(high[0], frame.shape[1])
        if left < right:
            cut[y - low[1], left - low[0] : right - low[0]] = frame[y, left:right]
    return cv2.resize(cut, (side, side), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("corners", [CropCorners.WHOLE_PIXELS, CropCorners.WHOLE_PIXELS_FROM_ONE])
def test_crops_with_whole_corners_are_the_published_ones(corners):
    side, first = 64, int(corners is CropCorners.WHOLE_PIXELS_FROM_ONE)
    spec = AffineCrop(size=(side, side), padding=1.25, corners=corners)
    y, x = np.mgrid[:180, :240]
    waves = [128 + 120 * np.sin(x / 9 + y / 40), 128 + 120 * np.sin(y / 9), 128 + 120 * np.cos((x - y) / 20)]
    frame = np.stack(waves, axis=2).astype(np.uint8)
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(40):
        centre, extent = rng.uniform(20, [220, 160]), float(rng.uniform(30, 300))
        half = extent / 1.25 / 2
        box = (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)
        tensor, geometry = preprocess(spec, frame, box=box)
        wanted = published_crop(frame, centre, extent / 200, side, first)
        # Bytes, at positions rounded to 1/32 pixel (at the frame's edge up to 4 of 248); no outer ring.
        ring = 1 + math.ceil(side / extent / 2)
        apart = np.abs(tensor[0].astype(float) - wanted)[ring:-ring, ring:-ring]
        assert apart.mean() <= 0.5
        assert apart.max() <= 5
        exact, same_way = preprocess(msgspec.structs.replace(spec, corners=CropCorners.EXACT), frame, box=box)
        np.testing.assert_array_equal(geometry.matrix, same_way.matrix)
        moved += np.abs(exact[0].astype(float) - wanted)[ring:-ring, ring:-ring].mean() > 2
    assert moved > 10, "the exact corners are not the published ones"


def test_corners_are_cut_off_behind_the_float64_inverse():
    """Exact arithmetic says (85, 30); the inverse says a hair less, and a whole pixel is gone."""
    box = (85.0, 30.0, 305.0, 250.0)
    for corners, wanted in (
        (CropCorners.EXACT, [85, 30]),
        (CropCorners.WHOLE_PIXELS, [84, 29]),
        (CropCorners.WHOLE_PIXELS_FROM_ONE, [85, 30]),
    ):
        spec = AffineCrop(size=(256, 256), padding=1.0, corners=corners)
        corner = crop_source(spec, noise((480, 640)), box)[1].to_source(np.zeros((1, 2)))[0]
        np.testing.assert_allclose(corner, wanted, atol=1e-9)
    tiny = AffineCrop(size=(256, 256), padding=1.0, corners=CropCorners.WHOLE_PIXELS)
    assert preprocess(tiny, noise((20, 20)), box=(3.2, 3.2, 3.4, 3.4))[0].shape == (1, 256, 256, 3)


def test_a_crop_around_the_whole_frame_is_a_stretch():
    frame = smooth((60, 80))
    for rule in PixelRule:
        crop, crop_geometry = preprocess(
            AffineCrop(size=(30, 40), padding=1.0, pixel_rule=rule), frame, box=(0, 0, 80, 60)
        )
        stretch, stretch_geometry = preprocess(Stretch(size=(30, 40), pixel_rule=rule), frame)
        np.testing.assert_allclose(crop_geometry.matrix, stretch_geometry.matrix, atol=1e-12)
        assert np.abs(crop.astype(int) - stretch)[:, 1:-1, 1:-1].max() <= 2


def test_as_is_copies_and_swaps():
    frame = noise((5, 7))
    same, geometry = preprocess(AsIs(size=(5, 7)), frame)
    np.testing.assert_array_equal(same[0], frame)
    assert not np.shares_memory(same, frame)
    np.testing.assert_array_equal(geometry.matrix, np.eye(2, 3))
    swapped, _ = preprocess(AsIs(size=(5, 7), colour=ColourOrder.RGB), frame)
    np.testing.assert_array_equal(swapped[0], frame[..., ::-1])


def test_colour_order():
    frame = noise((20, 30))
    bgr, _ = preprocess(Stretch(size=(10, 9)), frame)
    rgb, _ = preprocess(Stretch(size=(10, 9), colour=ColourOrder.RGB), frame)
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])
    spec = AffineCrop(size=(8, 8), colour=ColourOrder.RGB, pad_value=(1, 2, 3))
    outside, _ = preprocess(spec, frame, box=(-90, -90, -60, -60))
    assert (outside == (1, 2, 3)).all()


def test_nearest_takes_the_pixel_under_the_centre():
    frame = noise((9, 9))
    tensor, _ = preprocess(Stretch(size=(3, 3), interpolation=Interpolation.NEAREST), frame)
    np.testing.assert_array_equal(tensor[0], frame[1::3, 1::3])
    aligned = Stretch(size=(5, 5), interpolation=Interpolation.NEAREST, pixel_rule=PixelRule.ALIGN_CORNERS)
    tensor, _ = preprocess(aligned, frame)
    np.testing.assert_array_equal(tensor[0], frame[::2, ::2])


def test_area_averages():
    frame = noise((4, 4))
    tensor, _ = preprocess(Stretch(size=(2, 2), interpolation=Interpolation.AREA), frame)
    expected = frame.reshape(2, 2, 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(tensor[0] - expected).max() <= 0.5


@pytest.mark.parametrize("interpolation", Interpolation)
def test_a_flat_frame_stays_flat(interpolation):
    frame = np.full((31, 17, 3), 200, np.uint8)
    tensor, _ = preprocess(Stretch(size=(12, 40), interpolation=interpolation), frame)
    assert (tensor == 200).all()


def test_the_buffer_is_reused():
    frame = noise((40, 50))
    for spec in (
        Stretch(size=(16, 24), colour=ColourOrder.RGB),
        Letterbox(size=(16, 24)),
        ShortestEdge(shortest=10, longest=20, size=(16, 24)),
        CentredFrame(size=(16, 24)),
        AffineCrop(size=(16, 24)),
    ):
        fresh, _ = preprocess(spec, frame, box=(3, 4, 30, 20))
        buffer = np.full((1, 16, 24, 3), 77, np.uint8)
        again, _ = preprocess(spec, frame, box=(3, 4, 30, 20), out=buffer)
        assert again is buffer
        np.testing.assert_array_equal(fresh, buffer)


def test_views_of_frames_are_taken():
    frame = noise((40, 60))
    mirrored, _ = preprocess(Stretch(size=(16, 24)), frame[:, ::-1])
    copied, _ = preprocess(Stretch(size=(16, 24)), frame[:, ::-1].copy())
    np.testing.assert_array_equal(mirrored, copied)


def test_within_one_step_of_the_float_path():
    frame = noise((108, 192))
    tensor, _ = preprocess(Stretch(size=(55, 55)), frame)
    float_path = cv2.resize(frame.astype(np.float32), (55, 55), interpolation=cv2.INTER_LINEAR)
    assert np.abs(tensor[0] - float_path).max() <= 1


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_wrong_frames_are_refused(frame):
    with pytest.raises(SourceError):
        preprocess(Stretch(size=(4, 4)), frame)


@pytest.mark.parametrize(
    "box", [None, (5.0, 5.0, 5.0, 9.0), (5.0, 5.0, 9.0, 4.0), (0.0, 0.0, float("nan"), 5.0)]
)
def test_a_crop_needs_a_box(box):
    with pytest.raises(SourceError, match="box"):
        preprocess(AffineCrop(size=(8, 8)), noise((20, 20)), box=box)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((1, 4, 8, 3), np.uint8)[:, :, ::2],
    ],
)
def test_wrong_buffers_are_refused(out):
    with pytest.raises(SourceError, match="buffer"):
        preprocess(Stretch(size=(4, 4)), noise((20, 20)), out=out)


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(SourceError, match="exactly"):
        preprocess(AsIs(size=(8, 8)), noise((8, 9)))
    with pytest.raises(SourceError, match="more than"):
        preprocess(ShortestEdge(shortest=10, longest=30, size=(10, 30)), noise((60, 20)))


def test_impossible_interpolations_are_refused():
    aligned = Stretch(size=(4, 4), interpolation=Interpolation.AREA, pixel_rule=PixelRule.ALIGN_CORNERS)
    with pytest.raises(ManifestError, match="aligned corners"):
        preprocess(aligned, noise((9, 9)))
    with pytest.raises(ManifestError, match="warp cannot use"):
        preprocess(AffineCrop(size=(4, 4), interpolation=Interpolation.AREA), noise((9, 9)), box=(0, 0, 4, 4))
