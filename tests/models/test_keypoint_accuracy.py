"""PCK: hand-counted cases, COCO's own AP beside it, and no number for nonsense."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgewise.models.scenes import write_dataset
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.keypoints.metric import KeypointAccuracy, relative_distances
from edgewise.models.tasks.keypoints.row import KEYPOINTS
from edgewise.models.tasks.task import Measured
from edgewise.runtime.contract.manifest import ClassLabel, KeypointLayout
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import DatasetError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> CocoKeypoints:
    return CocoKeypoints.open(write_dataset(tmp_path_factory.mktemp("accuracy") / "scenes", 40, 13, 96))


def _truth(scenes: CocoKeypoints) -> list[Keypoints]:
    return [scenes.truth(index) for index in range(len(scenes))]


def _moved(result: Keypoints, distance: float, keypoints: slice = slice(None)) -> Keypoints:
    """Points moved to the right by a part of the longer side of each box."""
    points = result.points.copy()
    points[:, keypoints, 0] += distance * (result.boxes[:, 2:] - result.boxes[:, :2]).max(axis=1)[:, None]
    return replace(result, points=points)


def _joined(first: Keypoints, second: Keypoints) -> Keypoints:
    """The people of both results of one frame."""
    arrays = ("points", "point_scores", "boxes", "scores", "classes")
    return replace(
        first, **{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in arrays}
    )


def _measured(scenes: CocoKeypoints, results: Sequence[Keypoints]) -> Measured:
    """PCK on the first images of the scenes, as many as there are results."""
    measuring = KeypointAccuracy().begin(scenes)
    for index, result in enumerate(results):
        measuring.add(index, result)
    return measuring.value()


def test_the_truth_is_found_whole(scenes: CocoKeypoints) -> None:
    measured = _measured(scenes, _truth(scenes))
    assert measured.name == KEYPOINTS.metric.name == "PCK@0.1"
    assert measured.value == 1.0
    assert measured.images == 40
    assert measured.parts["OKS AP"] == pytest.approx(1.0)
    assert set(measured.parts.values()) == {1.0}
    assert set(scenes.layout.names) < set(measured.parts)


@pytest.mark.parametrize(("distance", "shares"), [(0.04, (1, 1, 1)), (0.09, (0, 1, 1)), (0.15, (0, 0, 1))])
def test_the_distance_is_a_part_of_the_persons_size(
    scenes: CocoKeypoints, distance: float, shares: tuple[int, int, int]
) -> None:
    measured = _measured(scenes, [_moved(result, distance) for result in _truth(scenes)])
    assert (measured.parts["PCK@0.05"], measured.value, measured.parts["PCK@0.2"]) == shares


def test_each_keypoint_is_counted_by_itself(scenes: CocoKeypoints) -> None:
    measured = _measured(scenes, [_moved(result, 0.5, slice(3, 5)) for result in _truth(scenes)])
    names = scenes.layout.names
    assert [measured.parts[name] for name in names] == [
        0.0 if index in (3, 4) else 1.0 for index in range(17)
    ]
    assert sum(measured.parts[name] for name in names) == 15
    labelled = np.array(
        [one.points[:, 2] > 0 for index in range(len(scenes)) for one in scenes.people(index)]
    )
    assert measured.value == pytest.approx(1 - labelled[:, 3:5].sum() / labelled.sum())


def test_people_who_are_not_found_are_missed_and_others_do_no_harm(scenes: CocoKeypoints) -> None:
    truth = _truth(scenes)
    nothing = [result[:0] for result in truth]
    assert _measured(scenes, nothing).value == 0.0
    peopled = next(index for index, result in enumerate(truth) if len(result))
    gone = [nothing[index] if index == peopled else result for index, result in enumerate(truth)]
    assert 0 < _measured(scenes, gone).value < 1
    corner = np.array([0, 0, 1, 1], np.float32)
    strangers = [replace(result, boxes=np.tile(corner, (len(result), 1))) for result in truth]
    both = [_joined(result, other) for result, other in zip(truth, strangers, strict=True)]
    assert _measured(scenes, both).value == 1.0
    assert _measured(scenes, strangers).value == 0.0


def test_a_result_belongs_to_one_person_only(scenes: CocoKeypoints) -> None:
    index = next(index for index in range(len(scenes)) if scenes.people(index))
    person, found = scenes.people(index)[0], scenes.truth(index)[0]
    width = float(found.boxes[0, 2] - found.boxes[0, 0])
    aside = found.boxes + np.array([0.2 * width, 0, 0.2 * width, 0], np.float32)
    near = replace(_moved(found, 0.3), boxes=aside)
    both = _joined(near, found)
    distances = relative_distances((person, person), both.points, both.boxes)
    labelled = person.points[:, 2] > 0
    assert (distances[0][labelled] < 0.01).all()
    np.testing.assert_allclose(distances[1][labelled], 0.3, atol=1e-3)
    assert np.isnan(distances[:, ~labelled]).all()
    alone = relative_distances((person, person), found.points, found.boxes)
    assert np.isinf(alone[1][labelled]).all()


def test_the_similarity_ap_is_cocos(scenes: CocoKeypoints) -> None:
    rng = np.random.default_rng(4)
    results = []
    for result in _truth(scenes):
        sides = (result.boxes[:, 2:] - result.boxes[:, :2]).max(axis=1)
        noise = rng.normal(0, 0.03, result.points.shape) * sides[:, None, None]
        scores = rng.random(len(result)).astype(np.float32)
        results.append(replace(result, points=(result.points + noise).astype(np.float32), scores=scores))
    records = [
        record
        for image, result in zip(scenes.images, results, strict=True)
        for record in result.records(image.id)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(scenes.json))
        reference = COCOeval(truth, truth.loadRes(records), "keypoints")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    measured = _measured(scenes, results)
    assert 0.1 < reference.stats[0] < 0.95
    assert measured.parts["OKS AP"] == pytest.approx(reference.stats[0], abs=1e-9)


def test_nobody_to_find_is_no_number(scenes: CocoKeypoints) -> None:
    empty = next(index for index in range(len(scenes)) if not scenes.people(index))
    measuring = KeypointAccuracy().begin(scenes)
    measuring.add(empty, scenes.truth(empty))
    assert math.isnan(measuring.value().value)
    assert measuring.value().images == 1


def test_results_of_another_kind_are_refused(scenes: CocoKeypoints) -> None:
    index = next(index for index in range(len(scenes)) if scenes.people(index))
    measuring, truth = KeypointAccuracy().begin(scenes), scenes.truth(index)
    layout = KeypointLayout(names=scenes.layout.names[:3])
    fewer = replace(truth, points=truth.points[:, :3], point_scores=truth.point_scores[:, :3], layout=layout)
    with pytest.raises(DatasetError, match="3 keypoints, not 17"):
        measuring.add(index, fewer)
    with pytest.raises(DatasetError, match="category 4"):
        measuring.add(index, replace(truth, labels=(ClassLabel(id=4, name="dog"),)))
    instances = CocoInstances.open(scenes.json.parent)
    with pytest.raises(DatasetError, match="is of Instances, not Keypoints"):
        measuring.add(index, instances.truth(index))
    with pytest.raises(DatasetError, match="needs keypoint"):
        KeypointAccuracy().begin(instances)
    measuring.add(index, truth)
    assert measuring.value().value == 1.0


def test_the_datasets_folder_is_whole(scenes: CocoKeypoints) -> None:
    assert scenes.folder == Path(scenes.json.parent / "images")
