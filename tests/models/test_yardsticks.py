"""NME and PCKh against their formulas, written out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.models.data.face_labels import IBUG_FACE, WFLW_FACE
from edgewise.models.data.labels import MPII_PEOPLE
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.keypoints.metric import KeypointAccuracy
from edgewise.models.tasks.task import Measured

SIZE = (120, 160)


def dataset(folder: Path, vocabulary: Vocabulary, heads: list[float | None] | None = None) -> CocoKeypoints:
    """Three people in two images, with unlabelled points; the last one's eyes are not labelled."""
    assert vocabulary.keypoints is not None
    names = vocabulary.keypoints.names
    rng = np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    annotations = []
    for number, image in enumerate((1, 1, 2)):
        x, y, w, h = 10 + 70 * (number % 2), 20.5, 55.25, 80.0
        points = np.concatenate(
            [rng.uniform((x, y), (x + w, y + h), (len(names), 2)), rng.integers(0, 3, (len(names), 1))],
            axis=1,
        )
        eyes = [names.index(name) for name in ("right_eye_1", "left_eye_1") if name in names]
        points[eyes, 2] = 0 if number == 2 else 2
        one = {"id": number + 1, "image_id": image, "category_id": 1, "bbox": [x, y, w, h]}
        one["keypoints"] = points.ravel().tolist()
        if heads is not None and heads[number] is not None:
            one["head_size"] = heads[number]
        annotations.append(one)
    for image in (1, 2):
        cv2.imwrite(str(folder / "images" / f"{image}.png"), np.zeros((*SIZE, 3), np.uint8))
    images = [{"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in (1, 2)]
    category = {"id": 1, "name": vocabulary.classes[0].name, "keypoints": names}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "keypoints.json").write_text(json.dumps(content))
    return CocoKeypoints.open(folder)


def off_by(data: CocoKeypoints, seed: int = 7) -> tuple[list[np.ndarray], Measured]:
    """Errors in pixels, [people, points, 2], and what is measured of them."""
    rng = np.random.default_rng(seed)
    measuring, moved = KeypointAccuracy().begin(data), []
    for index in range(len(data)):
        truth = data.truth(index)
        moved.append(rng.normal(0, 6, truth.points.shape))
        measuring.add(index, replace(truth, points=(truth.points + moved[-1]).astype(np.float32)))
    return moved, measuring.value()


@pytest.mark.parametrize(("vocabulary", "corners"), [(WFLW_FACE, (60, 72)), (IBUG_FACE, (36, 45))])
def test_nme_is_its_formula(vocabulary: Vocabulary, corners: tuple[int, int], tmp_path: Path) -> None:
    data = dataset(tmp_path, vocabulary)
    moved, measured = off_by(data)
    by_eyes, by_box, by_diagonal = [], [], []
    for index in range(len(data)):
        for person, errors in zip(data.people(index), moved[index], strict=True):
            labelled = [point for point in range(len(person.points)) if person.points[point, 2] > 0]
            mean = sum(math.hypot(*errors[point]) for point in labelled) / len(labelled)
            _, _, w, h = person.bbox
            by_box.append(mean / math.sqrt(w * h))
            by_diagonal.append(mean / math.sqrt(w * w + h * h))
            first, second = (person.points[corner] for corner in corners)
            if first[2] > 0 and second[2] > 0:
                by_eyes.append(mean / math.dist(first[:2], second[:2]))
    assert len(by_eyes) == 2
    wanted = {"NME inter-ocular": by_eyes, "NME box": by_box, "NME diagonal": by_diagonal}
    for name, values in wanted.items():
        assert measured.parts[name] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert "PCKh@0.5" not in measured.parts


def test_pckh_is_its_formula(tmp_path: Path) -> None:
    """Half a head, of everybody whose head is measured; pelvis and thorax count nowhere."""
    heads = [14.0, None, 9.5]
    data = dataset(tmp_path, MPII_PEOPLE, heads)
    moved, measured = off_by(data)
    right = judged = 0
    every = zip([one for i in range(2) for one in data.people(i)], np.concatenate(moved), heads, strict=True)
    for person, errors, head in every:
        for point in range(16):
            if head is not None and person.points[point, 2] > 0 and point not in (6, 7):
                judged += 1
                right += math.hypot(*errors[point]) <= 0.5 * head
    assert 0 < right < judged
    assert measured.parts["PCKh@0.5"] == pytest.approx(right / judged)
    assert not any(name.startswith("NME") for name in measured.parts)


def test_faces_that_are_not_found_have_no_error(tmp_path: Path) -> None:
    data = dataset(tmp_path, WFLW_FACE)
    measuring = KeypointAccuracy().begin(data)
    measuring.add(0, data.truth(0)[:1])
    measuring.add(1, data.truth(1)[:0])
    measured = measuring.value()
    assert measured.parts["NME inter-ocular"] == pytest.approx(0, abs=1e-5)
    assert measured.value < 0.5
    nobody = KeypointAccuracy().begin(data)
    nobody.add(0, data.truth(0)[:0])
    assert math.isnan(nobody.value().parts["NME inter-ocular"])
