"""YOLACT++: deformable blocks, three scales a level, and scores that count the mask too."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
import torch
from torch.nn import functional as F

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.families.yolact.config import PLUS_MICRO, YolactConfig
from edgewise.models.families.yolact.decoding import decode_detections
from edgewise.models.families.yolact.deploy import YolactDeploy
from edgewise.models.families.yolact.losses import losses
from edgewise.models.families.yolact.network import Yolact
from edgewise.models.families.yolact.priors import priors
from edgewise.models.families.yolact.targets import match
from edgewise.models.layers import boxes as box_ops
from edgewise.models.layers.deform_conv import ModulatedDeformConv

from .test_yolact import example
from .test_yolact_deploy import random_frames

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: YolactConfig = msgspec.structs.replace(
    PLUS_MICRO, decoding=msgspec.structs.replace(PLUS_MICRO.decoding, slots=12)
)
SQUARE = msgspec.structs.replace(SMALL, input_size=(64, 64))


def lively(config: YolactConfig) -> Yolact:
    """Taps that move, several sure classes, and a judge that says something of each."""
    torch.manual_seed(4)
    network = Yolact(config)
    for module in network.modules():
        if isinstance(module, ModulatedDeformConv):
            torch.nn.init.normal_(module.conv_offset_mask.weight, std=0.3)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    torch.nn.init.normal_(network.prediction_layers[0].conf_layer.weight, std=0.3)
    judge = network.maskiou_net.maskiou_net
    for layer in judge[:-2:2]:
        torch.nn.init.uniform_(layer.weight, -0.1, 0.4)
    torch.nn.init.uniform_(judge[-2].weight, 0.0, 0.06)
    return network.eval()


def test_published_priors_have_three_scales_and_true_heights():
    table = priors(registry.find("yolact-plus-r50").config)
    assert len(table) == 57_744
    first = [
        (24 * 2 ** (third / 3) * math.sqrt(ratio) / 550, 24 * 2 ** (third / 3) / math.sqrt(ratio) / 550)
        for third in range(3)
        for ratio in (1.0, 0.5, 2.0)
    ]
    torch.testing.assert_close(table[:9, 2:], torch.tensor(first))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("yolact-plus-r50", {1: range(4), 2: range(6), 3: range(3)}),
        ("yolact-plus-r101", {1: (0, 3), 2: range(0, 23, 3), 3: (0,)}),
    ],
)
def test_published_blocks_are_deformable(name, wanted):
    with torch.device("meta"):
        backbone = registry.find(name).build().backbone
    found = [
        (stage, number)
        for stage, blocks in enumerate(backbone.layers)
        for number, block in enumerate(blocks)
        if isinstance(block.conv2, ModulatedDeformConv)
    ]
    assert found == [(stage, number) for stage, numbers in wanted.items() for number in numbers]


def test_a_fresh_deformable_backbone_moves_nothing():
    """A plain network's weights go on from where they were, but for the factor of one half."""
    for module in Yolact(SMALL).modules():
        if isinstance(module, ModulatedDeformConv):
            assert not any(bool(value.any()) for value in module.conv_offset_mask.parameters())
            assert not module.bias.any()


def published_rescoring(network: Yolact, coefficients, prototypes, boxes, scores, classes, size):
    """Step by step as the paper's code shows results: crop, judge, multiply, sort."""
    height, width = prototypes.shape[-2:]
    layers = [layer for layer in network.maskiou_net.maskiou_net if isinstance(layer, torch.nn.Conv2d)]
    found = []
    for place in range(len(scores)):
        mask = torch.sigmoid(torch.einsum("k,khw->hw", coefficients[place], prototypes))
        ends = boxes[place] * torch.tensor([width / size[1], height / size[0]] * 2)
        x1, x2 = sorted((float(ends[0]), float(ends[2])))
        y1, y2 = sorted((float(ends[1]), float(ends[3])))
        columns, lines = torch.arange(width), torch.arange(height)
        across = (columns >= max(x1 - 1, 0)) & (columns < min(x2 + 1, width))
        down = (lines >= max(y1 - 1, 0)) & (lines < min(y2 + 1, height))
        mask = mask * (down[:, None] & across[None])
        seen = mask[None, None]
        for layer in layers[:-1]:
            seen = F.relu(F.conv2d(seen, layer.weight, layer.bias, stride=2))
        seen = F.relu(F.conv2d(seen, layers[-1].weight, layers[-1].bias))
        expected = F.max_pool2d(seen, seen.shape[2:])[0, classes[place], 0, 0]
        found.append((float(scores[place] * expected.clamp(max=1)), place, mask))
    return sorted(found, key=lambda item: -item[0])


def test_scores_are_the_published_product_and_order_the_slots():
    network = lively(SMALL)
    frames = random_frames(2, SMALL)
    with torch.inference_mode():
        deploy = YolactDeploy(SMALL, network)
        together = deploy(frames)
        table = network.priors * torch.tensor([96.0, 64.0, 96.0, 64.0])
        reordered = 0
        for image in range(2):
            boxes, scores, classes, masks, loc, conf, coefficients, prototypes = (
                value[image] for value in together
            )
            first = decode_detections(conf[None], box_ops.decode(loc, table)[None], SMALL.decoding)
            count = int((first.scores[0] > 0).sum())
            assert count > 5
            wanted = published_rescoring(
                network,
                coefficients[first.priors[0, :count]],
                prototypes,
                first.boxes[0, :count],
                first.scores[0, :count],
                first.classes[0, :count],
                SMALL.input_size,
            )
            places = [place for _, place, _ in wanted]
            reordered += places != sorted(places)
            torch.testing.assert_close(scores[:count], torch.tensor([score for score, _, _ in wanted]))
            assert classes[:count].tolist() == first.classes[0, places].tolist()
            torch.testing.assert_close(boxes[:count], first.boxes[0, places])
            torch.testing.assert_close(masks[:count], torch.stack([mask for _, _, mask in wanted]))
            assert not any(bool(value[count:].any()) for value in (boxes, scores, classes, masks))
            for whole, alone in zip(together, deploy(frames[image : image + 1]), strict=True):
                torch.testing.assert_close(whole[image : image + 1], alone, rtol=1e-4, atol=1e-4)
        assert reordered, "the judge changes no order: this compares nothing"


def test_whatever_the_judge_says_a_score_stays_one():
    """Nothing expected leaves an empty slot, and more than an IoU can be leaves the score of the box."""
    network = lively(SMALL)
    frames = random_frames(1, SMALL)
    plain = msgspec.structs.replace(SMALL, mask_iou=())
    with torch.inference_mode():
        judge = network.maskiou_net.maskiou_net
        judge[-2].bias.fill_(-100.0)
        assert not any(bool(value.any()) for value in YolactDeploy(SMALL, network)(frames)[:4])
        judge[-2].bias.fill_(100.0)
        generous = YolactDeploy(SMALL, network)(frames)
        network.maskiou_net = None
        torch.testing.assert_close(generous[1], YolactDeploy(plain, network)(frames)[1])


def test_the_mask_iou_loss_is_its_formula():
    network = lively(SQUARE).train()
    targets = [example(1, 2), example(2, 0), example(3, 3)]
    with torch.no_grad():
        out = network(torch.randn(3, 3, 64, 64))
        got = losses(SQUARE, network.priors, out, targets, network.maskiou_net)["mask_iou"]
        total, positives, judged = 0.0, 0, 0
        for number, truth in enumerate(targets):
            matched = match(
                network.priors, truth.boxes / 64, truth.classes, truth.crowd_boxes / 64, SQUARE.matching
            )
            for prior in torch.nonzero(matched.classes > 0).flatten().tolist():
                positives += 1
                thing = int(matched.objects[prior])
                wanted = F.interpolate(truth.masks[thing, None, None].float(), (32, 32), mode="bilinear")
                wanted = wanted[0, 0] > 0.5
                if int(wanted.sum()) <= SQUARE.losses.mask_iou_area:
                    continue
                judged += 1
                mask = torch.sigmoid(
                    torch.einsum("k,khw->hw", out.coefficients[number, prior], out.prototypes[number])
                )
                x1, y1, x2, y2 = (truth.boxes[thing] / 2).tolist()
                for row in range(32):
                    for column in range(32):
                        if not (x1 - 1 <= column < x2 + 1 and y1 - 1 <= row < y2 + 1):
                            mask[row, column] = 0.0
                found = mask > 0.5
                iou = float((found & wanted).sum()) / float((found | wanted).sum())
                said = float(network.maskiou_net(mask[None, None])[0, truth.classes[thing]])
                difference = abs(said - iou)
                total += difference**2 / 2 if difference < 1 else difference - 0.5
    assert judged > 0
    assert float(got) == pytest.approx(25.0 * total / positives, rel=1e-4)


def test_the_shipped_file_is_half_precision_and_says_how_it_came_about():
    path = Path(edgewise.models.__file__).parent / "pretrained" / "yolact-plus-tiny.safetensors"
    assert path.stat().st_size <= 1_500_000
    meta, tensors = load_checkpoint(path)
    assert {value.dtype for value in tensors.values()} == {torch.float16, torch.int64}
    assert meta.training_command.startswith("edgewise train yolact-plus-tiny --seed 5")
    assert meta.metrics["mask_ap"] >= 0.6
    assert meta.entry().config == registry.find("yolact-plus-tiny").config
    moved = [value for key, value in tensors.items() if "conv_offset_mask" in key]
    assert len(moved) == 6
    assert all(bool(value.any()) for value in moved), "its taps move"


def test_too_many_halvings_of_the_prototypes_are_refused():
    with pytest.raises(ValueError, match="6 halvings leave nothing"):
        msgspec.structs.replace(SMALL, mask_iou=(4,) * 6)
