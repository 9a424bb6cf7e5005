"""Surfaces: the published decoding written out, texture transfer, records, agreement."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.contract.postprocessing import ChartSurface
from edgewise.runtime.frames.looks import Look, Looks
from edgewise.runtime.kinds.surface.agreement import SCALE
from edgewise.runtime.kinds.surface.atlas import Atlas
from edgewise.runtime.kinds.surface.charts import read_charts
from edgewise.runtime.kinds.surface.crops import SurfaceCrops
from edgewise.runtime.kinds.surface.decode import decode_surface
from edgewise.runtime.kinds.surface.kind import CHART_SURFACE
from edgewise.runtime.kinds.surface.result import Surface
from edgewise.runtime.pixels.geometry import Geometry
from edgewise.runtime.system.errors import ResultError

from .conftest import detector_manifest

PERSON = (ClassLabel(id=1, name="person"),)


def resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres and edges repeated, [c, s, s] -> float64 [c, h, w]."""
    maps = maps.astype(np.float64)
    for axis, length in ((1, size[0]), (2, size[1])):
        side = maps.shape[axis]
        position = np.clip((np.arange(length) + 0.5) * side / length - 0.5, 0, side - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, side - 1)
        share = (position - low).reshape([-1 if each == axis else 1 for each in range(3)])
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps


def published(
    coarse: np.ndarray, fine: np.ndarray, u: np.ndarray, v: np.ndarray, size: tuple[int, int], upsampling: int
) -> tuple[np.ndarray, np.ndarray]:
    """DensePose's own way: all maps are resized, then a label is chosen and its U and V are taken."""
    large = tuple(side * upsampling for side in fine.shape[1:])
    coarse, fine, u, v = (resized(resized(maps, large), size) for maps in (coarse, fine, u, v))
    labels = fine.argmax(axis=0) * (coarse.argmax(axis=0) > 0)
    uv = np.zeros((2, *size))
    for part in range(1, len(fine)):
        for plane, chart in zip(uv, (u, v), strict=True):
            plane[labels == part] = chart[part][labels == part]
    return labels, uv


def maps_of(seed: int, side: int, parts: int, coarse: int, rough: int) -> tuple[np.ndarray, ...]:
    """Smooth random maps: coarse, fine, u, v."""
    rng = np.random.default_rng(seed)

    def smooth(channels: int, strength: float, middle: float = 0.0) -> np.ndarray:
        small = rng.normal(size=(channels, rough, rough)).astype(np.float32)
        large = [cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in small]
        return np.stack(large) * np.float32(strength) + np.float32(middle)

    return smooth(coarse, 3), smooth(parts + 1, 4), smooth(parts + 1, 0.3, 0.5), smooth(parts + 1, 0.3, 0.5)


@pytest.mark.parametrize(
    ("side", "parts", "coarse", "size", "upsampling", "rough"),
    [
        (56, 24, 2, (200, 150), 2, 6),
        (28, 24, 15, (61, 40), 2, 9),
        (28, 24, 2, (13, 90), 1, 28),
        (14, 5, 3, (1, 1), 2, 4),
        (14, 5, 3, (1, 300), 4, 5),
        (1, 3, 2, (6, 4), 1, 1),
    ],
)
def test_charts_are_the_published_ones(
    side: int, parts: int, coarse: int, size: tuple[int, int], upsampling: int, rough: int
) -> None:
    maps = maps_of(side + parts, side, parts, coarse, rough)
    labels, uv = published(*maps, size, upsampling)
    found, places = read_charts(*maps, size, upsampling)
    assert (found.dtype, places.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_allclose(places, uv, atol=1e-5)


def test_of_equal_maps_the_first_counts_and_a_tie_with_the_background_is_background() -> None:
    fine = np.zeros((4, 8, 8), np.float32)
    fine[2:] = 1
    coarse, zeros = np.zeros((2, 8, 8), np.float32), np.zeros_like(fine)
    coarse[1, :, 4:] = 1
    labels, _ = read_charts(coarse, fine, zeros, zeros, (8, 8), 1)
    np.testing.assert_array_equal(labels, np.repeat([[0] * 4 + [2] * 4], 8, axis=0))


def looks(frame_size: tuple[int, int], scale: float) -> Looks:
    geometry = Geometry(frame_size, (64, 96), np.array([[scale, 0, 0], [0, scale, 0]], np.float64))
    return Looks(frame_size, (Look(np.zeros((1, 64, 96, 3), np.uint8), geometry),), None)


def outputs(scores: list[float], boxes: list[list[float]], side: int = 8) -> dict[str, np.ndarray]:
    """Of a model with two parts, the left half of each box the first."""
    count = len(scores)
    coarse = np.zeros((1, count, 2, side, side), np.float32)
    coarse[:, :, 1] = 1
    fine = np.zeros((1, count, 3, side, side), np.float32)
    fine[:, :, 1, :, : side // 2] = fine[:, :, 2, :, side // 2 :] = 1
    return {
        "boxes": np.array([boxes], np.float32),
        "scores": np.array([scores], np.float32),
        "classes": np.zeros((1, count), np.int32),
        "coarse": coarse,
        "fine": fine,
        "u": np.full_like(fine, 0.25),
        "v": np.full_like(fine, 0.75),
    }


def decoded(given: dict[str, np.ndarray], frame_size: tuple[int, int] = (32, 48)) -> Surface:
    draft = detector_manifest({})
    return decode_surface(ChartSurface(parts=2, score_threshold=0.05), draft, looks(frame_size, 2.0), [given])


def test_crops_lie_at_the_whole_pixels_of_the_boxes() -> None:
    found = decoded(outputs([0.9, 0.5, 0.04], [[3, 3, 43.5, 40], [80, 20, 200, 21], [0, 0, 9, 9]]))
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    # 1.5 to 21.75 and 1.5 to 20; the second is cut off at the frame and less than a pixel high.
    assert found.crops.places.tolist() == [[1, 1, 20, 18], [40, 10, 8, 1]]
    labels, uv = next(iter(found.crops))
    assert labels[0].tolist() == [1] * 10 + [2] * 10
    assert uv[:, 3, 4].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("output", "change", "message"),
    [
        ("fine", lambda maps: maps[:, :, :2], r"'fine' has the shape"),
        ("fine", lambda maps: maps[..., :4], r"no squares"),
        ("coarse", lambda maps: maps[:, :, :1], r"'coarse' has a background and nothing else"),
        ("u", lambda maps: maps.astype(np.float16), r"'u' is float16"),
        ("v", lambda maps: maps * np.nan, r"'v' holds a value that is not finite"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(output: str, change: object, message: str) -> None:
    given = outputs([0.9], [[4, 4, 44, 40]])
    given[output] = change(given[output])
    with pytest.raises(ResultError, match=message):
        decoded(given)


def test_nothing_is_asked_of_empty_slots() -> None:
    given = outputs([0.9, 0.0], [[4, 4, 44, 40], [0, 0, 0, 0]])
    given["u"][0, 1] = np.nan
    assert len(decoded(given)) == 1


# ---------------------------------------------------------------- texture


def person(place: tuple[int, int, int, int], frame_size: tuple[int, int], mirrored: bool = False) -> Surface:
    """Part 1 in the upper half of the crop, part 2 in the lower, each chart over its half, V upwards."""
    x, y, w, h = place
    labels = np.repeat([1, 2], h // 2).astype(np.uint8)[:, None].repeat(w, axis=1)
    rows, columns = np.mgrid[:h, :w]
    u = (columns + 0.5) / w
    v = 1 - ((rows % (h // 2)) + 0.5) / (h // 2)
    uv = np.stack([1 - u if mirrored else u, v]).astype(np.float32)
    return Surface(
        boxes=np.array([[x, y, x + w, y + h]], np.float32),
        scores=np.ones(1, np.float32),
        classes=np.zeros(1, np.int32),
        crops=SurfaceCrops.of([(labels, uv)], np.array([place]), frame_size),
        parts=2,
        labels=PERSON,
        frame_size=frame_size,
    )


def test_a_texture_goes_from_one_person_to_another() -> None:
    rng = np.random.default_rng(3)
    frame = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    one, other = person((5, 4, 20, 30), (40, 50)), person((20, 6, 20, 30), (40, 50), mirrored=True)
    atlas = one.texture(frame, side=120)
    np.testing.assert_array_equal(one.paint(np.zeros_like(frame), atlas)[4:34, 5:25], frame[4:34, 5:25])
    painted = other.paint(frame, atlas)
    np.testing.assert_array_equal(painted[6:36, 20:40], frame[4:34, 5:25][:, ::-1])
    painted[6:36, 20:40] = frame[6:36, 20:40]
    np.testing.assert_array_equal(painted, frame)


def test_a_texture_is_right_side_up_on_the_published_sheet() -> None:
    """Part 1 is the first square of the first row; U runs to the right and V upwards."""
    frame = np.zeros((40, 50, 3), np.uint8)
    frame[4:12, 5:15] = (0, 0, 255)
    atlas = person((5, 4, 20, 30), (40, 50)).texture(frame)
    assert atlas.texels.shape == (2, 200, 200, 3)
    assert atlas.seen.mean() < 0.2
    sheet = atlas.sheet()
    assert sheet.shape == (200, 1200, 4)
    assert sheet[20, 20].tolist() == [0, 0, 255, 255]
    assert [sheet[180, 20].tolist(), sheet[20, 180].tolist()] == [[0, 0, 0, 255]] * 2
    assert not sheet[:, 400:].any()
    again = Atlas.of_sheet(sheet, parts=2)
    np.testing.assert_array_equal(again.texels, atlas.texels)


def test_parts_that_were_never_seen_stay_as_they_are() -> None:
    frame = np.full((40, 50, 3), 90, np.uint8)
    found = person((5, 4, 20, 30), (40, 50))
    atlas = found.texture(frame)
    half = Atlas(255 - atlas.texels, atlas.seen & (np.arange(2) == 0)[:, None, None])
    painted = found.paint(frame, half)
    assert (painted[4:19, 5:25] == 165).all()
    assert (painted[19:34, 5:25] == 90).all()
    with pytest.raises(ResultError, match="the atlas has 1 parts, a person shows part 2"):
        found.paint(frame, Atlas(atlas.texels[:1], atlas.seen[:1]))


@pytest.mark.parametrize("shape", [(200, 1200), (200, 1200, 2), (200, 1199, 3), (400, 1200, 3), (0, 0, 3)])
def test_what_is_no_sheet_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ResultError, match="a sheet of 6 parts is"):
        Atlas.of_sheet(np.zeros(shape, np.uint8), parts=6)


def test_contour_lines_of_u_stand_and_those_of_v_lie() -> None:
    found = person((40, 80, 64, 128), (240, 300))
    drawn = found.draw(np.zeros((240, 300, 3), np.uint8), threshold=0.5)
    yellow, white = ((drawn[151:207, 42:102] == colour).all(axis=2) for colour in ((60, 240, 255), 255))
    assert (np.flatnonzero(yellow.any(axis=0)) + 2).tolist() == [8, 16, 24, 32, 40, 48, 56]
    assert (np.flatnonzero(white.all(axis=1)) + 151 - 144).tolist() == [8, 16, 24, 32, 40, 48, 56]


# ---------------------------------------------------------------- agreement and records


def test_agreement_falls_with_the_distance_on_the_chart() -> None:
    one = person((5, 4, 20, 30), (40, 50))
    (labels, uv), place = next(iter(one.crops)), one.crops.places
    left, moved = (
        Surface(
            one.boxes,
            one.scores,
            one.classes,
            SurfaceCrops.of(
                [(labels, uv * np.float32(0.5) + np.array([[[by]], [[0]]], np.float32))], place, (40, 50)
            ),
            2,
            PERSON,
            (40, 50),
        )
        for by in (0.0, SCALE)
    )
    assert CHART_SURFACE.alike(left, moved).similarity[0, 0] == pytest.approx(np.exp(-0.5), abs=1e-6)
    swapped = Surface(
        one.boxes,
        one.scores,
        one.classes,
        SurfaceCrops.of([(np.where(labels == 1, 1, 0).astype(np.uint8), uv)], place, (40, 50)),
        2,
        PERSON,
        (40, 50),
    )
    assert CHART_SURFACE.alike(one, swapped).similarity[0, 0] == pytest.approx(0.5)
    shifted = person((15, 4, 20, 30), (40, 50))
    # Ten columns are shared, half of a chart apart, of thirty that any shows.
    near = np.exp(-(0.5**2) / (2 * SCALE**2)) / 3
    assert CHART_SURFACE.alike(one, shifted).similarity[0, 0] == pytest.approx(near, abs=1e-6)


def test_a_record_holds_the_picture_that_densepose_writes() -> None:
    found = person((5, 4, 20, 30), (40, 50))
    (record,) = found.records(7)
    assert record["densepose"]["shape"] == [3, 30, 20]
    data = np.frombuffer(base64.b64decode(record["densepose"]["data"]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    labels, uv = next(iter(found.crops))
    np.testing.assert_array_equal(picture[..., 0], labels)
    np.testing.assert_array_equal(picture[..., 1], (uv[0] * 255).astype(np.uint8))
    np.testing.assert_array_equal(picture[..., 2], (uv[1] * 255).astype(np.uint8))


def test_places_outside_the_chart_are_like_their_records() -> None:
    """A network is not bound to 0..1, and a golden is a record."""
    one = person((5, 4, 20, 30), (40, 50))
    (labels, uv), place = next(iter(one.crops)), one.crops.places
    crops = SurfaceCrops.of([(labels, (3 * uv - 1).astype(np.float32))], place, (40, 50))
    far = Surface(one.boxes, one.scores, one.classes, crops, 2, PERSON, (40, 50))
    records = far.records(1)
    records[0]["category_id"] = detector_manifest({}).classes[0].id
    again = CHART_SURFACE.read(ChartSurface(parts=2), detector_manifest({}), records, (40, 50))
    assert CHART_SURFACE.alike(far, again).similarity[0, 0] >= 0.9999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "?"}, "is no PNG of 30 x 20"),
        ({"data": ""}, "is no PNG of 30 x 20"),
        ({"shape": [3, 30, 21]}, "is no PNG of 30 x 21"),
        ({"shape": [3, 30]}, "not a COCO result record with a surface"),
    ],
)
def test_broken_records_are_refused(change: dict, message: str) -> None:
    found = person((5, 4, 20, 30), (40, 50))
    (record,) = found.records(7)
    record["densepose"].update(change)
    record["category_id"] = detector_manifest({}).classes[0].id
    with pytest.raises(ResultError, match=message):
        CHART_SURFACE.read(ChartSurface(parts=2), detector_manifest({}), [record], (40, 50))


def test_a_record_of_unknown_parts_is_refused() -> None:
    found = person((5, 4, 20, 30), (40, 50))
    (record,) = found.records(7)
    record["category_id"] = detector_manifest({}).classes[0].id
    with pytest.raises(ResultError, match="shows part 2 of 1"):
        CHART_SURFACE.read(ChartSurface(parts=1), detector_manifest({}), [record], (40, 50))
    with pytest.raises(ResultError, match="leaves the 33 x 50 frame"):
        CHART_SURFACE.read(ChartSurface(parts=2), detector_manifest({}), [record], (33, 50))
