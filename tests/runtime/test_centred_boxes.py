"""Boxes that a centre confirms, against the published loop, written out here."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.contract.postprocessing import CentredBoxes
from edgewise.runtime.contract.preprocessing import CentredFrame
from edgewise.runtime.decoding.decode import decode_result, looks_of

from .conftest import detector_manifest

SIZE, FRAME = (96, 128), (300, 500)
LABELS = tuple(ClassLabel(id=index + 1, name=f"class {index}") for index in range(3))


def published(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, centres: list[tuple[float, float, float, int]]
) -> list[tuple[int, float]]:
    """Which boxes are left and their scores: boxes in frame pixels, the scale being that of the frame."""
    kept: list[tuple[int, float]] = []
    scale = min(SIZE[0] / FRAME[0], SIZE[1] / FRAME[1])
    height, width = FRAME[0] * scale, FRAME[1] * scale
    for index, (box, score, of_class) in enumerate(zip(boxes, scores, classes, strict=True)):
        x1, y1, x2, y2 = box * scale
        if x1 <= -5 or y1 <= -5 or x2 >= width + 5 or y2 >= height + 5:
            continue
        x1, y1, x2, y2 = np.clip(box, 0, [FRAME[1], FRAME[0], FRAME[1], FRAME[0]])
        if (x2 - x1) * (y2 - y1) <= 22500:
            left, right, top, bottom = (
                (2 * x1 + x2) / 3,
                (x1 + 2 * x2) / 3,
                (2 * y1 + y2) / 3,
                (y1 + 2 * y2) / 3,
            )
        else:
            left, right = (3 * x1 + 2 * x2) / 5, (2 * x1 + 3 * x2) / 5
            top, bottom = (3 * y1 + 2 * y2) / 5, (2 * y1 + 3 * y2) / 5
        for x, y, centre_score, centre_class in centres:
            if centre_class == of_class and left < x < right and top < y < bottom:
                kept.append((index, (2 * score + centre_score) / 3))
                break
    return sorted(kept, key=lambda each: -each[1])


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_those_of_the_published_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, places = 150, 80
    low = rng.uniform([-30, -30], [460, 260], (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(20, 260, (count, 2))], axis=1)
    scores, classes = np.sort(rng.uniform(0.1, 1, count))[::-1], rng.integers(0, 3, count)
    centres = rng.uniform(0, [500, 300], (places, 2))
    centre_scores, centre_classes = np.sort(rng.uniform(0.1, 1, places))[::-1], rng.integers(0, 3, places)
    spec = CentredBoxes()
    manifest = msgspec.structs.replace(
        detector_manifest({}), postprocess=spec, classes=LABELS, preprocess=CentredFrame(size=SIZE)
    )
    looks = looks_of(manifest, np.zeros((*FRAME, 3), np.uint8))
    geometry = looks.looks[0].geometry
    outputs = {
        "boxes": geometry.to_network(boxes.reshape(-1, 2, 2)).reshape(1, -1, 4).astype(np.float32),
        "scores": scores[None].astype(np.float32),
        "classes": classes[None].astype(np.int32),
        "centres": geometry.to_network(centres)[None].astype(np.float32),
        "centre_scores": centre_scores[None].astype(np.float32),
        "centre_classes": centre_classes[None].astype(np.int32),
    }
    found = decode_result(manifest, looks, [outputs])
    wanted = published(
        boxes, scores, classes, list(zip(*centres.T, centre_scores, centre_classes, strict=True))
    )
    assert 3 < len(wanted) < count
    np.testing.assert_allclose(found.scores, [score for _, score in wanted], rtol=1e-6)
    assert found.classes.tolist() == [classes[index] for index, _ in wanted]
    inside = np.clip(boxes[[index for index, _ in wanted]], 0, [500, 300, 500, 300])
    np.testing.assert_allclose(found.boxes, inside, atol=1e-3)
