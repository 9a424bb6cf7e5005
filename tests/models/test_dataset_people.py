"""Keypoint files as training data of models that find people themselves, and their metric."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edgewise.models.data.augment import NO_AUGMENTATION, cut, mirror
from edgewise.models.measuring.tasks import task_of
from edgewise.models.tasks.keypoints.people_dataset import CocoPeople
from edgewise.models.tasks.task import Measured
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import DatasetError

SIZE = (40, 60)
NAMES = ["nose", "left_eye", "right_eye"]


def person(number: int, image: int, box: list[float], keypoints: list[float], **more: object) -> dict:
    return {
        "id": number, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3],
        "keypoints": keypoints, **more,
    }  # fmt: skip


@pytest.fixture
def people(tmp_path: Path) -> CocoPeople:
    """Image 1: a whole person, one without labels, a crowd. Image 2: nobody's points. Image 3: nobody."""
    (tmp_path / "images").mkdir()
    images = []
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((*SIZE, 3), 40 * number, np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]})
    unlabelled = [0.0] * 9
    content = {
        "images": images,
        "annotations": [
            person(1, 1, [10, 5, 20, 30], [12, 8, 2, 20, 10, 2, 25, 30, 1]),
            person(2, 1, [40, 5, 10, 10], unlabelled),
            person(3, 1, [32, 20, 20, 15], unlabelled, iscrowd=1),
            person(4, 2, [10, 5, 20, 30], unlabelled),
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2]]}],
    }
    (tmp_path / "keypoints.json").write_text(json.dumps(content))
    return CocoPeople.open(tmp_path)


def test_a_sample_is_an_image_with_labelled_people(people: CocoPeople) -> None:
    assert (people.sample_count, people.object_count, people.boxes(0)) == (1, 1, None)
    rng = np.random.default_rng(0)
    frame, targets = people.training_pair(rng, 0, Stretch(size=(80, 120)), NO_AUGMENTATION)
    assert frame.shape == (80, 120, 3)
    assert targets.boxes.tolist() == [[20, 10, 60, 70], [80, 10, 100, 30]]
    assert targets.crowd_boxes.tolist() == [[64, 40, 104, 70]]
    # COCO names pixels, whose centres are twice as far on a frame of twice the size.
    assert targets.points is not None
    assert targets.points[0].tolist() == [[25, 17, 2], [41, 21, 2], [51, 61, 1]]
    assert targets.points[1, :, 2].tolist() == [0, 0, 0]


def test_points_follow_a_mirror_and_a_cut(people: CocoPeople) -> None:
    example = people.example(0)
    turned = mirror(example).points
    assert turned is not None
    assert turned[0].tolist() == [[60 - 12.5, 8.5, 2], [60 - 25.5, 30.5, 1], [60 - 20.5, 10.5, 2]]
    part = cut(example, (15, -5, 60, 25))
    assert part.points is not None
    assert len(part.boxes) == len(part.points)
    assert part.points[0, :, 2].tolist() == [0, 2, 0]
    assert part.points[0, 1, :2].tolist() == [5.5, 15.5]
    away = cut(example, (45, 0, 60, 40))
    assert away.points is not None
    assert len(away.points) == len(away.boxes) == 1


def test_nobody_is_mirrored_without_sides(people: CocoPeople) -> None:
    always = replace(NO_AUGMENTATION, mirror=1.0)
    spec = Stretch(size=SIZE)
    _, turned = people.training_pair(np.random.default_rng(0), 0, spec, always)
    assert turned.boxes[0].tolist() == [30, 5, 50, 35]
    layout = people.layout
    people.vocabulary = replace_layout(people, ())
    _, straight = people.training_pair(np.random.default_rng(0), 0, spec, always)
    assert straight.boxes[0].tolist() == [10, 5, 30, 35]
    assert people.remarks == ("images are not mirrored: no two keypoint names are a left and a right",)
    assert layout.flip_pairs == ((1, 2),)


def replace_layout(people: CocoPeople, pairs: tuple[tuple[int, int], ...]):
    vars(people).pop("one_sided", None)
    layout = msgspec.structs.replace(people.layout, flip_pairs=pairs)
    return msgspec.structs.replace(people.vocabulary, keypoints=layout)


def measured(people: CocoPeople, results: list[Keypoints]) -> Measured:
    measuring = task_of("people").metric.begin(people)
    for index, result in enumerate(results):
        measuring.add(index, result)
    return measuring.value()


def found_at(people: CocoPeople, boxes: list[list[float]], scores: list[float]) -> Keypoints:
    """Image 1's labelled person, and others somewhere else."""
    truth = people.truth(0)
    boxes_ = np.array([truth.boxes[0].tolist(), *boxes], np.float32)
    points = np.stack([truth.points[0], *(np.full((3, 2), box[:2], np.float32) + 5 for box in boxes)])
    return Keypoints(
        points=points,
        point_scores=np.ones(points.shape[:2], np.float32),
        boxes=boxes_,
        scores=np.array([0.5, *scores], np.float32),
        classes=np.zeros(len(boxes_), np.int32),
        labels=truth.labels,
        layout=truth.layout,
        frame_size=SIZE,
    )


def test_people_without_labels_are_neither_right_nor_wrong(people: CocoPeople) -> None:
    """Found or not, they and the crowd leave the figure as it is; somebody where nobody is does not."""
    empty = people.truth(2)
    right = measured(people, [found_at(people, [], []), empty, empty])
    assert (right.name, right.images) == ("OKS AP", 3)
    assert right.value == pytest.approx(1.0)
    assert right.parts == {"PCK@0.1": 1.0}
    also = measured(people, [found_at(people, [[40, 5, 50, 15]], [0.9]), empty, empty])
    assert also.value == pytest.approx(1.0)
    nobody = measured(people, [found_at(people, [[2, 30, 8, 38]], [0.9]), empty, empty])
    assert nobody.value == pytest.approx(0.5)
    missed = measured(people, [empty, empty, empty])
    assert (missed.value, missed.parts["PCK@0.1"]) == (0.0, 0.0)


def test_crops_are_measured_by_another_task(people: CocoPeople) -> None:
    crops = task_of("keypoints").dataset.open(people.json)
    with pytest.raises(DatasetError, match="OKS AP needs keypoint ground truth"):
        task_of("people").metric.begin(crops)
