"""Square crops around faces, against the loops of the repositories that crop so."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgewise.runtime.contract.preprocessing import BoxSide, ColourOrder, SquareCrop
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.system.errors import SourceError

FRAME = np.random.default_rng(3).integers(0, 256, (90, 140, 3), np.uint8)
Box = tuple[float, float, float, float]


def published(frame: np.ndarray, box: Box, side: BoxSide, clipped: bool) -> tuple[np.ndarray, list[int]]:
    """The loop of both repositories on a box of whole pixels; its crop, and the square."""
    x1, y1, x2, y2 = (int(value) for value in box)
    w, h = x2 - x1, y2 - y1
    size = int((max if side is BoxSide.LONGER else min)([w, h]) * 1.2)
    cx, cy = x1 + w // 2, y1 + h // 2
    x1, y1 = cx - size // 2, cy - size // 2
    x2, y2 = x1 + size, y1 + size
    height, width = frame.shape[:2]
    if clipped:
        x1, y1, x2, y2 = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    before, after = (max(0, -y1), max(0, -x1)), (max(0, y2 - height), max(0, x2 - width))
    cut = frame[max(0, y1) : min(height, y2), max(0, x1) : min(width, x2)]
    cut = cv2.copyMakeBorder(
        cut, before[0], after[0], before[1], after[1], cv2.BORDER_CONSTANT, value=(0,) * 3
    )
    return cv2.resize(cut, (48, 48)), [x1, y1, x2, y2]


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("side", BoxSide)
@pytest.mark.parametrize(
    "box", [(30, 20, 61, 63), (-12, 40, 25, 95), (100, -9, 160, 30), (3, 3, 4, 4), (-20, -20, 170, 130)]
)
def test_squares_are_the_published_ones(box: Box, side: BoxSide, clipped: bool) -> None:
    spec = SquareCrop(size=(48, 48), side=side, clipped=clipped)
    tensor, geometry = preprocess(spec, FRAME, box=box)
    wanted, (x1, y1, x2, y2) = published(FRAME, box, side, clipped)
    np.testing.assert_array_equal(tensor[0], wanted)
    # As published, a share of the crop goes back by its size and its origin.
    shares = np.array([[0.0, 0.0], [0.25, 0.5], [1.0, 1.0]])
    back = geometry.to_source(shares * 48)
    np.testing.assert_allclose(back, shares * (x2 - x1, y2 - y1) + (x1, y1), atol=1e-9)


def test_colours_and_padding_follow_the_graph() -> None:
    spec = SquareCrop(size=(24, 24), colour=ColourOrder.RGB, pad_value=(9, 8, 7))
    tensor, _ = preprocess(spec, FRAME, box=(-60.0, -60.0, 10.0, 10.0))
    assert (tensor[0, 0, 0] == (9, 8, 7)).all()
    inner, _ = preprocess(spec, FRAME, box=(40.0, 40.0, 60.0, 60.0))
    bgr, _ = preprocess(SquareCrop(size=(24, 24)), FRAME, box=(40.0, 40.0, 60.0, 60.0))
    np.testing.assert_array_equal(inner[..., ::-1], bgr)


def test_what_cannot_be_cut_out() -> None:
    spec = SquareCrop(size=(24, 24))
    # Wholly outside there is nothing to stretch either.
    for clipped in (False, True):
        outside, _ = preprocess(SquareCrop(size=(24, 24), clipped=clipped), FRAME, box=(500, 500, 520, 530))
        assert not outside.any()
    with pytest.raises(SourceError, match="empty"):
        preprocess(spec, FRAME, box=(5.0, 5.0, 5.0, 9.0))
    with pytest.raises(SourceError, match="16384 at most"):
        preprocess(spec, FRAME, box=(0.0, 0.0, 1e9, 5.0))
    with pytest.raises(SourceError, match="no box was given"):
        preprocess(spec, FRAME)
