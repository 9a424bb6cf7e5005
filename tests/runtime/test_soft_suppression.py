"""Soft-NMS against the published loop, written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgewise.runtime.contract.postprocessing import SoftSuppression
from edgewise.runtime.kinds.boxes.soft_suppression import suppress_softly


def published(boxes: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    """The loop over one class, without the rows that it leaves behind: x1, y1, x2, y2, score."""
    rows = [[*box, score] for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)]
    at = 0
    while at < len(rows):
        best = max(range(at, len(rows)), key=lambda row: (rows[row][4], -row))
        rows[at], rows[best] = rows[best], rows[at]
        x1, y1, x2, y2, _ = rows[at]
        other = at + 1
        while other < len(rows):
            a1, b1, a2, b2, _ = rows[other]
            width, height = min(x2, a2) - max(x1, a1) + 1, min(y2, b2) - max(y1, b1) + 1
            if width > 0 and height > 0:
                area = (x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1) - width * height
                rows[other][4] *= math.exp(-((width * height / area) ** 2) / 0.5)
                if rows[other][4] < 0.001:
                    rows[other] = rows[-1]
                    rows.pop()
                    continue
            other += 1
        at += 1
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_scores_fall_as_in_the_published_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (70, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 60, (70, 2))], axis=1)
    scores, classes = rng.uniform(0.0011, 1, 70), rng.integers(0, 3, 70).astype(np.int32)
    kept, lowered = suppress_softly(boxes, scores, classes, SoftSuppression(most=40))
    assert (np.diff(lowered) <= 0).all()
    wanted = [
        [*row, one] for one in range(3) for row in published(boxes[classes == one], scores[classes == one])
    ]
    wanted.sort(key=lambda row: -row[4])
    assert len(wanted) > 40
    found = [[*boxes[index], score, classes[index]] for index, score in zip(kept, lowered, strict=True)]
    np.testing.assert_allclose(found, wanted[:40], rtol=1e-9)


def test_nothing_stays_nothing() -> None:
    kept, lowered = suppress_softly(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int32), SoftSuppression())
    assert len(kept) == len(lowered) == 0
