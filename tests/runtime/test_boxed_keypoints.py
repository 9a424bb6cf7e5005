"""Maps over detected boxes become people of the frame: what a manifest's fields say, and wrong outputs."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from edgewise.runtime.contract.manifest import KeypointLayout
from edgewise.runtime.contract.postprocessing import BoxedKeypoints, PointScore
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import ResultError

from .conftest import detector_manifest
from .five_classes import LABELS

LAYOUT = KeypointLayout(names=("head", "foot"), limbs=((0, 1),), sigmas=(0.1, 0.1))


def outputs(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """The worse person in the first slot, an empty slot, the better one; network 32 x 48, maps of 4 x 4."""
    maps = np.full((1, 3, 2, 4, 4), -2, np.float32)
    maps[0, 0, :, 1, 2] = maps[0, 2, 0, 0, 0] = 3
    maps[0, 2, 1, 3, 3] = 5
    return {
        "boxes": np.array([[[8, 4, 24, 20], [0, 0, 0, 0], [20, 8, 28, 24]]], np.float32),
        "scores": np.array([[0.4, 0, 0.9]], np.float32),
        "classes": np.zeros((1, 3), np.int32),
        "heatmaps": maps,
        **changes,
    }


def decoded(given: dict[str, np.ndarray], **fields: object) -> Keypoints:
    manifest = msgspec.structs.replace(
        detector_manifest({}), postprocess=BoxedKeypoints(**fields), classes=LABELS, keypoints=LAYOUT
    )
    looks = looks_of(manifest, np.zeros((64, 96, 3), np.uint8))  # the network's 32 x 48, doubled
    found = decode_result(manifest, looks, [given])
    assert isinstance(found, Keypoints)
    return found


def test_people_come_best_first_with_their_own_points() -> None:
    found = decoded(outputs())
    np.testing.assert_allclose(found.scores, [0.9, 0.4])
    assert found.boxes.tolist() == [[40, 16, 56, 48], [16, 8, 48, 40]]
    # The corners' cells, and cell (1, 2) of 4 x 4, in frame pixels; a resized map has the box's own cells.
    np.testing.assert_allclose(found.points[0], [[41, 17], [55, 47]], atol=3.0)
    np.testing.assert_allclose(found.points[1], [[36, 20], [36, 20]], atol=2.0)
    assert (found.point_scores > 0).all()
    assert found.point_threshold == 0.05


def test_scores_of_points_by_either_rule() -> None:
    """The greatest value of the resized map, by the logistic function, or against the whole doubled one."""
    given = outputs()
    given["heatmaps"][0, 0] = 0.25  # flat: each of 8 x 8 cells has the same share
    assert decoded(given, point_score=PointScore.PROBABILITY).point_scores[1] == pytest.approx(1 / 64)
    logistic = 1 / (1 + math.exp(-0.25))
    assert decoded(given, point_score=PointScore.LOGIT).point_scores[1] == pytest.approx(logistic)


def test_numbers_of_pixels_begin_at_their_centres() -> None:
    continuous, numbers = decoded(outputs()), decoded(outputs(), pixel_numbers=True)
    np.testing.assert_allclose(numbers.points - continuous.points, 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heatmaps": np.full((1, 3, 2, 4, 4), np.nan, np.float32)}, "'heatmaps' holds a value that is not"),
        ({"heatmaps": np.zeros((1, 3, 5, 4, 4), np.float32)}, r"'heatmaps' has the shape \[1, 3, 5, 4, 4\]"),
        ({"heatmaps": np.zeros((1, 2, 2, 4, 4), np.float32)}, r"'heatmaps' has the shape \[1, 2, 2, 4, 4\]"),
        ({"heatmaps": np.zeros((1, 3, 2, 4, 4), np.float16)}, "'heatmaps' is float16"),
    ],
)
def test_wrong_maps_are_refused(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        decoded(outputs(**changes))


def test_nothing_in_empty_slots_is_looked_at() -> None:
    maps = outputs()["heatmaps"]
    maps[0, 1] = np.nan
    assert len(decoded(outputs(heatmaps=maps))) == 2


def test_a_manifest_must_name_the_points() -> None:
    manifest = msgspec.structs.replace(detector_manifest({}), postprocess=BoxedKeypoints(), classes=LABELS)
    assert [problem for problem in manifest.postprocess.problems(manifest) if "names no keypoints" in problem]
