"""Anchors and their regression against the numbers of the published definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.models.layers.anchors import AnchorRule, cell_anchors, level_anchors, pyramid_anchors
from edgewise.models.layers.box_coding import BoxCoding

RATIOS = (0.5, 1.0, 2.0)
DETECTRON_SIDES = {
    4: [(48, 24), (32, 32), (24, 48)],
    8: [(88, 48), (64, 64), (48, 96)],
    16: [(184, 96), (128, 128), (88, 176)],
    32: [(360, 176), (256, 256), (184, 368)],
    64: [(728, 368), (512, 512), (360, 720)],
}


@pytest.mark.parametrize("stride", DETECTRON_SIDES)
def test_detectron_anchors_have_the_published_sides_around_the_cells_centre(stride):
    anchors = cell_anchors(8 * stride, stride, RATIOS, AnchorRule.DETECTRON)
    sides = anchors[:, 2:] - anchors[:, :2] + 1
    assert [tuple(side) for side in sides.int().tolist()] == DETECTRON_SIDES[stride]
    assert torch.equal((anchors[:, :2] + anchors[:, 2:]) / 2, torch.full((3, 2), (stride - 1) / 2))


def test_torchvision_anchors_are_rounded_half_to_even_around_zero():
    anchors = cell_anchors(32, 4, RATIOS, AnchorRule.TORCHVISION)
    assert anchors.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert cell_anchors(5, 4, (1.0,), AnchorRule.TORCHVISION).tolist() == [[-2, -2, 2, 2]]


def test_detectron2_anchors_are_not_rounded():
    anchors = cell_anchors(32, 4, RATIOS, AnchorRule.DETECTRON2).double()
    sides = anchors[:, 2:] - anchors[:, :2]
    np.testing.assert_allclose(sides.prod(dim=1), 1024, rtol=1e-6)
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], RATIOS, rtol=1e-6)
    np.testing.assert_allclose(anchors[:, :2], -anchors[:, 2:])


def test_anchors_run_over_rows_then_columns_then_shapes():
    cells = cell_anchors(32, 4, RATIOS, AnchorRule.DETECTRON)
    anchors = level_anchors(cells, (3, 5), 4).reshape(3, 5, 3, 4)
    for row in range(3):
        for column in range(5):
            shift = torch.tensor([column * 4.0, row * 4.0, column * 4.0, row * 4.0])
            assert torch.equal(anchors[row, column], cells + shift)


def test_a_pyramid_has_its_sizes_on_every_level():
    levels = pyramid_anchors([(8, 16), (4, 8)], (4, 8), ((32,), (64, 80)), RATIOS)
    assert [len(level) for level in levels] == [8 * 16 * 3, 4 * 8 * 6]
    for size, first in ((64, 0), (80, 3)):
        cells = cell_anchors(size, 8, RATIOS, AnchorRule.DETECTRON)
        assert torch.equal(levels[1][first : first + 3], cells)


# ---------------------------------------------------------------- regression


def test_inclusive_regression_counts_the_last_pixel():
    coding = BoxCoding(weights=(10.0, 10.0, 5.0, 5.0), plus_one=True)
    anchor = torch.tensor([10.0, 20.0, 29.0, 59.0])
    box = torch.tensor([12.0, 20.0, 51.0, 39.0])
    # Anchor 20 x 40 around (20, 40); box 40 x 20 around (32, 30).
    expected = [10 * 12 / 20, 10 * -10 / 40, 5 * math.log(2), 5 * math.log(0.5)]
    torch.testing.assert_close(coding.encode(box, anchor), torch.tensor(expected))
    torch.testing.assert_close(coding.decode(torch.tensor(expected), anchor), box)


def test_continuous_regression_does_not():
    anchor, box = torch.tensor([10.0, 20.0, 30.0, 60.0]), torch.tensor([12.0, 20.0, 52.0, 40.0])
    expected = torch.tensor([12 / 20, -10 / 40, math.log(2), math.log(0.5)])
    torch.testing.assert_close(BoxCoding().encode(box, anchor), expected)
    torch.testing.assert_close(BoxCoding().decode(expected, anchor), box)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_decoding_undoes_encoding(seed, plus_one):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-50, 300, (2, 20, 2))
    boxes, anchors = torch.from_numpy(np.concatenate([low, low + rng.uniform(1, 60, (2, 20, 2))], axis=2))
    coding = BoxCoding(weights=(10.0, 10.0, 5.0, 5.0), plus_one=plus_one)
    torch.testing.assert_close(coding.decode(coding.encode(boxes, anchors), anchors), boxes)


def test_growth_is_limited():
    anchor = torch.tensor([0.0, 0.0, 16.0, 16.0])
    grown = BoxCoding().decode(torch.tensor([0.0, 0.0, 50.0, math.log(1000 / 16)]), anchor)
    torch.testing.assert_close(grown[2:] - grown[:2], torch.tensor([1000.0, 1000.0]))


def test_clipping_ends_at_the_last_pixel_or_at_the_edge():
    boxes = torch.tensor([[[-5.0, -6.0, 700.0, 800.0]], [[3.0, 4.0, 90.0, 95.0]]])
    assert BoxCoding(plus_one=True).clip(boxes, (100, 200))[0].tolist() == [[0, 0, 199, 99]]
    assert BoxCoding().clip(boxes, (100, 200))[0].tolist() == [[0, 0, 200, 100]]
    extents = torch.tensor([[100.0, 200.0], [50.0, 60.0]])
    assert BoxCoding(plus_one=True).clip(boxes, extents).tolist() == [[[0, 0, 199, 99]], [[3, 4, 59, 49]]]
