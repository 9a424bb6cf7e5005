import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from edgewise.models.layers import boxes
from edgewise.models.layers.darknet import DarkNet, DarkNetConfig
from edgewise.models.layers.fpn import FeaturePyramid
from edgewise.models.layers.resnet import ResNet, ResNetConfig

coordinate = st.floats(0, 200, width=32)
extent = st.floats(1, 100, width=32)
box_lists = st.lists(st.tuples(coordinate, coordinate, extent, extent), min_size=1, max_size=8)


def corners(rows: list[tuple[float, float, float, float]]) -> torch.Tensor:
    table = torch.tensor(rows, dtype=torch.float64)
    return torch.cat((table[:, :2], table[:, :2] + table[:, 2:]), dim=1)


@settings(deadline=None)
@given(box_lists, box_lists)
def test_iou_and_coverage_agree_with_cocos(first, second):
    got = boxes.iou(corners(first), corners(second)).numpy()
    wanted = coco_mask.iou(np.array(first), np.array(second), [False] * len(second))
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    # COCO's crowd overlap: intersection over the detection's own area.
    covered = boxes.coverage(corners(second), corners(first)).numpy()
    wanted = coco_mask.iou(np.array(first), np.array(second), [True] * len(second))
    np.testing.assert_allclose(covered.T, wanted, atol=1e-6)


@settings(deadline=None)
@given(box_lists, box_lists)
def test_decode_undoes_encode(targets, anchors):
    count = min(len(targets), len(anchors))
    wanted = corners(targets[:count])
    priors = boxes.centres_from_corners(corners(anchors[:count]))
    torch.testing.assert_close(boxes.decode(boxes.encode(wanted, priors), priors), wanted)


def test_encoding_scales_as_in_ssd():
    prior = torch.tensor([[10.0, 20.0, 4.0, 8.0]])
    moved = boxes.corners_from_centres(torch.tensor([[12.0, 20.0, 4.0, 16.0]]))
    expected = torch.tensor([[2 / 4 / 0.1, 0.0, 0.0, np.log(2.0) / 0.2]], dtype=torch.float32)
    torch.testing.assert_close(boxes.encode(moved, prior), expected)


@pytest.mark.parametrize("size", [(64, 96), (70, 50)])
def test_resnet_stages(size):
    config = ResNetConfig(depths=(1, 2, 1, 1), widths=(4, 6, 8, 10), expansion=2, stem_width=4)
    stages = ResNet(config).eval()(torch.zeros(2, 3, *size))
    for stage, channels, stride in zip(stages, config.stage_channels, config.stage_strides, strict=True):
        assert stage.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


def test_darknet_stages():
    config = DarkNetConfig(depths=(1, 1, 2), stem_width=4)
    stages = DarkNet(config).eval()(torch.zeros(1, 3, 33, 48))
    assert [tuple(stage.shape) for stage in stages] == [(1, 8, 17, 24), (1, 16, 9, 12), (1, 32, 5, 6)]


def test_untrained_activations_stay_in_half_precision_range():
    torch.manual_seed(0)
    network = ResNet(ResNetConfig(depths=(3, 4, 23, 3), widths=(8, 16, 32, 64), stem_width=8))
    network.initialise()
    stages = network.eval()(torch.randn(1, 3, 64, 64))
    assert all(0.01 < float(stage.detach().std()) < 100 for stage in stages)


def test_pyramid_adds_the_coarser_level_and_halves_upwards():
    pyramid = FeaturePyramid((3, 5), channels=4, downsamples=2)
    fine, coarse = torch.randn(1, 3, 9, 7), torch.randn(1, 5, 5, 4)
    levels = pyramid((fine, coarse))
    assert [tuple(level.shape[2:]) for level in levels] == [(9, 7), (5, 4), (3, 2), (2, 1)]
    top = pyramid.lat_layers[0](coarse)
    merged = pyramid.lat_layers[1](fine) + torch.nn.functional.interpolate(top, (9, 7), mode="bilinear")
    torch.testing.assert_close(levels[0], pyramid.pred_layers[1](merged).relu())
    assert float(levels[1].detach().min()) >= 0
    assert float(levels[2].detach().min()) < 0, "the halved levels carry no ReLU"
