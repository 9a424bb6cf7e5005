"""Crops and decoding of SimpleBaseline, HRNet and DARK beside their published steps, joint by joint."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel, Graph, KeypointLayout, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import CellPlace, HeatmapDecoding, HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop, CropCorners
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.frames.looks import FrameBoxes

SIZE, MAP = (256, 192), (64, 48)
FRAME = (480, 640)
PAIRS = ((1, 2), (3, 4))
JOINTS = 5


@dataclass(frozen=True)
class Published:
    """What tells one published pipeline from the other.

    Attributes:
        distances: Sides of crop, input and map are counted from pixel centre to pixel centre (DARK).
        fields: Of the manifest's postprocessing.
    """

    corners: CropCorners
    distances: int
    fields: dict[str, object]

    def manifest(self, clip_box: bool = False) -> Manifest:
        names = tuple(f"point {index}" for index in range(JOINTS))
        return Manifest(
            writer="edgewise tests",
            name="pose",
            classes=(ClassLabel(id=1, name="person"),),
            keypoints=KeypointLayout(names=names, flip_pairs=PAIRS),
            provenance=Provenance(definition="tests"),
            graphs={"main": Graph(inputs=(), outputs=())},
            preprocess=AffineCrop(size=SIZE, corners=self.corners, clip_box=clip_box),
            postprocess=HeatmapKeypoints(**self.fields),
        )

    def clean(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """x, y, width, height of an annotation, as the datasets clean it."""
        x, y, width, height = box
        x1, y1 = max(0.0, x), max(0.0, y)
        x2 = min(FRAME[1] - 1.0, x1 + max(0.0, width - 1))
        y2 = min(FRAME[0] - 1.0, y1 + max(0.0, height - 1))
        return x1, y1, x2 - x1 + self.distances, y2 - y1 + self.distances

    def affine(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
        """float64 [2, 3]: pixel numbers of the frame -> pixel numbers of a (height, width) crop or map."""
        x, y, width, height = box
        less = self.distances
        centre = np.array([x + (width - less) * 0.5, y + (height - less) * 0.5])
        aspect = SIZE[1] / SIZE[0]
        if width < aspect * height:
            width = height * aspect
        source_width = width * 1.25
        target = np.array([(size[1] - less) * 0.5, (size[0] - less) * 0.5])
        up = np.array([0.0, -0.5])
        source_points = [centre, centre + (source_width - less) * up]
        target_points = [target, target + (size[1] - less) * up]
        for points in (source_points, target_points):
            across = points[0] - points[1]
            points.append(points[1] + np.array([-across[1], across[0]]))
        equations = np.concatenate([np.array(source_points), np.ones((3, 1))], axis=1)
        return np.linalg.solve(equations, np.array(target_points)).T


HRNET = Published(
    CropCorners.PIXEL_NUMBERS,
    0,
    {"decoding": HeatmapDecoding.QUARTER_INSIDE, "cells": CellPlace.NUMBER, "flip_shift": True},
)
DARK = Published(
    CropCorners.PIXEL_DISTANCES, 1, {"decoding": HeatmapDecoding.DARK, "cells": CellPlace.DISTANCE}
)
BOTH = pytest.mark.parametrize("published", [HRNET, DARK], ids=["hrnet", "dark"])


def maximum(heatmap: np.ndarray) -> tuple[int, int]:
    """Column and row of the first maximum."""
    index = int(np.argmax(heatmap.reshape(-1)))
    return index % heatmap.shape[1], index // heatmap.shape[1]


def quarter(heatmap: np.ndarray) -> np.ndarray:
    height, width = heatmap.shape
    px, py = maximum(heatmap)
    place = np.array([px, py], np.float64)
    if 1 < px < width - 1 and 1 < py < height - 1:
        place += 0.25 * np.sign(
            [
                float(heatmap[py, px + 1]) - float(heatmap[py, px - 1]),
                float(heatmap[py + 1, px]) - float(heatmap[py - 1, px]),
            ]
        )
    return place


def taylor(heatmap: np.ndarray) -> np.ndarray:
    height, width = heatmap.shape
    px, py = maximum(heatmap)
    blurred = cv2.GaussianBlur(np.pad(heatmap.astype(np.float64), 5), (11, 11), 0)[5:-5, 5:-5]
    logs = np.log(np.maximum(blurred * (heatmap.max() / blurred.max()), 1e-10))
    place = np.array([px, py], np.float64)
    if 1 < px < width - 2 and 1 < py < height - 2:
        dx = 0.5 * (logs[py, px + 1] - logs[py, px - 1])
        dy = 0.5 * (logs[py + 1, px] - logs[py - 1, px])
        dxx = 0.25 * (logs[py, px + 2] - 2 * logs[py, px] + logs[py, px - 2])
        dyy = 0.25 * (logs[py + 2, px] - 2 * logs[py, px] + logs[py - 2, px])
        dxy = 0.25 * (
            logs[py + 1, px + 1] - logs[py - 1, px + 1] - logs[py + 1, px - 1] + logs[py - 1, px - 1]
        )
        hessian = np.array([[dxx, dxy], [dxy, dyy]])
        if np.linalg.det(hessian) != 0:
            place -= np.linalg.inv(hessian) @ np.array([dx, dy])
    return place


def flipped_back(heatmaps: np.ndarray, shift: bool) -> np.ndarray:
    """[k, h, w] of a mirrored crop, as of the crop itself."""
    turned = heatmaps[:, :, ::-1].copy()
    for left, right in PAIRS:
        turned[[left, right]] = turned[[right, left]]
    if shift:
        turned[:, :, 1:] = turned.copy()[:, :, :-1]
    return turned


def some_maps(rng: np.random.Generator, people: int) -> np.ndarray:
    """float32 [n, k, h, w]: hills anywhere, also over the border, noise; some with ties and flat tops."""
    y, x = np.mgrid[: MAP[0], : MAP[1]]
    centres = rng.uniform(-1, [MAP[1] + 1, MAP[0] + 1], (people, JOINTS, 2))
    edges = rng.random(centres.shape) < 0.15
    centres[edges] = rng.choice([0.0, 1.0, 2.0], int(edges.sum()))
    squares = (x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2
    maps = np.exp(-squares / 8) + rng.random(squares.shape) * 0.02
    maps[0] = np.round(maps[0], 1) + 0.01  # plateaus
    mirrored = (maps[1] + maps[1][:, ::-1, ::-1]) / 2  # two equal maxima
    maps[1] = mirrored
    return maps.astype(np.float32)


def boxes(rng: np.random.Generator, people: int) -> np.ndarray:
    """float64 [n, 4], x, y, width, height; wide and tall, some leaving the frame."""
    corner = rng.uniform(0, [560, 380], (people, 2))
    return np.concatenate([corner, rng.uniform(20, [300, 350], (people, 2))], axis=1)


def as_boxes(found: np.ndarray) -> FrameBoxes:
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    return FrameBoxes(corners, np.ones(len(found), np.float32))


@BOTH
@pytest.mark.parametrize("flip_test", [False, True])
def test_points_are_those_of_the_published_loop(published, flip_test):
    people = 40
    rng = np.random.default_rng(5)
    found, straight, mirrored = boxes(rng, people), some_maps(rng, people), some_maps(rng, people)
    fields = published.fields | {"flip_test": flip_test}
    model = Published(published.corners, published.distances, fields).manifest()
    looks = looks_of(model, np.zeros((*FRAME, 3), np.uint8), as_boxes(found))
    each = [straight, mirrored] if flip_test else [straight]
    outputs = [{"heatmaps": maps[person][None]} for person in range(people) for maps in each]
    result = decode_result(model, looks, outputs)
    moved = 0
    for person in range(people):
        maps = straight[person]
        if flip_test:
            shift = bool(published.fields.get("flip_shift"))
            maps = (maps + flipped_back(mirrored[person], shift)) * np.float32(0.5)
        forward = published.affine(tuple(found[person]), MAP)
        back = np.linalg.inv(np.concatenate([forward, [[0, 0, 1]]]))
        for joint in range(JOINTS):
            place = taylor(maps[joint]) if published is DARK else quarter(maps[joint])
            moved += bool((place != maximum(maps[joint])).any())
            number = (back @ [*place, 1.0])[:2]
            # A point is float32, of up to 1000 pixels; half a pixel from its number to its place.
            np.testing.assert_allclose(result.points[person, joint], number + 0.5, rtol=1.2e-7, atol=1e-6)
            for_mpii = number + 1  # that benchmark's numbers begin at 1
            np.testing.assert_allclose(result.points[person, joint], for_mpii - 0.5, rtol=1.2e-7, atol=1e-6)
            score = min(float(maps[joint].max()), 1.0)
            assert result.point_scores[person, joint] == pytest.approx(score, abs=1e-6)
    assert moved > 100


@BOTH
@pytest.mark.parametrize("annotated", [False, True])
def test_crops_are_those_of_the_published_affine(published, annotated):
    rng = np.random.default_rng(7)
    y, x = np.mgrid[: FRAME[0], : FRAME[1]]
    waves = [
        128 + 120 * np.sin(x / 19 + y / 40),
        128 + 120 * np.sin(y / 19),
        128 + 120 * np.cos((x - y) / 20),
    ]
    frame = np.stack(waves, axis=2).astype(np.uint8)
    model = published.manifest(clip_box=annotated)
    found = boxes(rng, 12)
    for look, box in zip(looks_of(model, frame, as_boxes(found)).looks, found, strict=True):
        wanted = published.affine(published.clean(tuple(box)) if annotated else tuple(box), SIZE)
        corners = np.array([[0.0, 0.0], [100.0, 50.0], [639.0, 479.0]])
        numbers = corners @ wanted[:, :2].T + wanted[:, 2]
        np.testing.assert_allclose(look.geometry.to_network(corners + 0.5), numbers + 0.5, atol=1e-9)
        crop = cv2.warpAffine(frame, wanted, (SIZE[1], SIZE[0]), flags=cv2.INTER_LINEAR)
        apart = np.abs(look.tensor[0].astype(int) - crop)
        assert apart.mean() < 0.1
        assert (apart > 2).mean() < 0.01  # at the frame's edge a 32nd of a pixel is up to 8


def test_a_box_that_clipping_would_leave_empty_is_taken_as_it_is():
    model = HRNET.manifest(clip_box=True)
    outside = np.array([[700.0, 10.0, 50.0, 80.0], [10.0, 10.0, 1.0, 1.0]])
    clipped = looks_of(model, np.zeros((*FRAME, 3), np.uint8), as_boxes(outside))
    plain = looks_of(HRNET.manifest(), np.zeros((*FRAME, 3), np.uint8), as_boxes(outside))
    for one, other in zip(clipped.looks, plain.looks, strict=True):
        np.testing.assert_array_equal(one.geometry.matrix, other.geometry.matrix)
