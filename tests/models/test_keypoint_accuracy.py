"""PCK: hand-counted cases, COCO's own AP beside it, and no number for nonsense."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgewise.models.measuring.metrics import metric_of
from edgewise.models.scenes import write_dataset
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.keypoints.metric import KeypointAccuracy, relative_distances
from edgewise.runtime.system.errors import DatasetError

Record = dict[str, Any]
MEASURE = KeypointAccuracy().measure


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> CocoKeypoints:
    return CocoKeypoints.open(write_dataset(tmp_path_factory.mktemp("accuracy") / "scenes", 40, 13, 96))


def _perfect(scenes: CocoKeypoints) -> list[Record]:
    return [
        record
        for index in range(len(scenes))
        for record in scenes.truth(index).records(scenes.images[index].id)
    ]


def _moved(record: Record, distance: float, keypoints: slice = slice(None)) -> Record:
    """Points moved to the right by a part of the longer side of the box."""
    points = np.array(record["keypoints"]).reshape(-1, 3)
    points[keypoints, 0] += distance * max(record["bbox"][2:])
    return {**record, "keypoints": points.ravel().tolist()}


def test_the_truth_is_found_whole(scenes: CocoKeypoints) -> None:
    measured = MEASURE(scenes, _perfect(scenes))
    assert measured.name == metric_of("keypoints").name == "PCK@0.1"
    assert measured.value == 1.0
    assert measured.images == 40
    assert measured.parts["OKS AP"] == pytest.approx(1.0)
    assert set(measured.parts.values()) == {1.0}
    assert set(scenes.layout.names) < set(measured.parts)


@pytest.mark.parametrize(("distance", "shares"), [(0.04, (1, 1, 1)), (0.09, (0, 1, 1)), (0.15, (0, 0, 1))])
def test_the_distance_is_a_part_of_the_persons_size(
    scenes: CocoKeypoints, distance: float, shares: tuple[int, int, int]
) -> None:
    measured = MEASURE(scenes, [_moved(record, distance) for record in _perfect(scenes)])
    assert (measured.parts["PCK@0.05"], measured.value, measured.parts["PCK@0.2"]) == shares


def test_each_keypoint_is_counted_by_itself(scenes: CocoKeypoints) -> None:
    measured = MEASURE(scenes, [_moved(record, 0.5, slice(3, 5)) for record in _perfect(scenes)])
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
    records = _perfect(scenes)
    assert MEASURE(scenes, []).value == 0.0
    gone = [record for record in records if record["image_id"] != records[0]["image_id"]]
    assert 0 < MEASURE(scenes, gone).value < 1
    strangers = [{**record, "bbox": [0.0, 0.0, 1.0, 1.0]} for record in records]
    assert MEASURE(scenes, [*records, *strangers]).value == 1.0
    assert MEASURE(scenes, strangers).value == 0.0


def test_a_result_belongs_to_one_person_only(scenes: CocoKeypoints) -> None:
    index = next(index for index in range(len(scenes)) if scenes.people(index))
    person = scenes.people(index)[0]
    (record, *_) = scenes.truth(index).records(1)
    left, width, height = person.bbox[0], *person.bbox[2:]
    near = {**record, "bbox": [left + 0.2 * width, person.bbox[1], width, height]}
    distances = relative_distances((person, person), [_moved(near, 0.3), record], 17)
    labelled = person.points[:, 2] > 0
    assert (distances[0][labelled] < 0.01).all()
    np.testing.assert_allclose(distances[1][labelled], 0.3, atol=1e-3)
    assert np.isnan(distances[:, ~labelled]).all()
    alone = relative_distances((person, person), [record], 17)
    assert np.isinf(alone[1][labelled]).all()


def test_the_similarity_ap_is_cocos(scenes: CocoKeypoints) -> None:
    rng = np.random.default_rng(4)
    records = []
    for record in _perfect(scenes):
        points = np.array(record["keypoints"]).reshape(-1, 3)
        points[:, :2] += rng.normal(0, 0.03 * max(record["bbox"][2:]), (17, 2))
        records.append({**record, "keypoints": points.ravel().tolist(), "score": float(rng.random())})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(scenes.json))
        reference = COCOeval(truth, truth.loadRes([dict(record) for record in records]), "keypoints")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    measured = MEASURE(scenes, records)
    assert 0.1 < reference.stats[0] < 0.95
    assert measured.parts["OKS AP"] == pytest.approx(reference.stats[0], abs=1e-9)


def test_nobody_to_find_is_no_number(scenes: CocoKeypoints) -> None:
    empty = next(index for index in range(len(scenes)) if not scenes.people(index))
    measured = MEASURE(scenes, [], image_ids=[scenes.images[empty].id])
    assert math.isnan(measured.value)
    assert measured.images == 1


def test_results_of_another_kind_are_refused(scenes: CocoKeypoints) -> None:
    records = _perfect(scenes)
    with pytest.raises(DatasetError, match="17 keypoints and a box"):
        MEASURE(scenes, [{**records[0], "keypoints": [1, 2, 3]}])
    with pytest.raises(DatasetError, match="category 4"):
        MEASURE(scenes, [{**records[0], "category_id": 4}])
    with pytest.raises(DatasetError, match="which is not measured"):
        MEASURE(scenes, records, image_ids=[scenes.images[0].id])
    with pytest.raises(DatasetError, match="needs keypoint"):
        MEASURE(CocoInstances.open(scenes.json.parent), [])


def test_tasks_without_a_metric_are_refused() -> None:
    with pytest.raises(DatasetError, match="no metric"):
        metric_of("faces")
    assert metric_of("instances").name == "mask AP"
    assert metric_of("panoptic").name == "PQ"


def test_the_datasets_folder_is_whole(scenes: CocoKeypoints) -> None:
    assert scenes.folder == Path(scenes.json.parent / "images")
