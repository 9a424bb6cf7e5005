"""Keypoint R-CNN: what it learns, and its deployed graph against the code bases whose weights it takes."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.data.labels import COCO_PEOPLE
from edgewise.models.families.rcnn.keypoint_variants import DETECTRON2 as DETECTRON2_CONFIG
from edgewise.models.families.rcnn.keypoint_variants import MICRO, TORCHVISION_V1
from edgewise.models.families.rcnn.network import Rcnn
from edgewise.models.layers.two_stage.keypoint_stage import KeypointStage, target_cells
from edgewise.models.layers.two_stage.proposal_stage import ProposalConfig
from edgewise.models.measuring.torch_runner import TorchRunner
from edgewise.runtime.contract.manifest import Provenance
from edgewise.runtime.kinds.keypoints.boxed import points_in_boxes
from edgewise.runtime.walk.walk import Walk

from .published_rcnn import DETECTRON2, TORCHVISION, detections, keypoints

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- decoding


def smooth_maps(count: int, points: int, side: int, seed: int) -> torch.Tensor:
    """Logits of several hills, with noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, points, 6, 6, generator=generator)
    noise = torch.randn(count, points, side, side, generator=generator)
    return 5 * F.interpolate(coarse, (side, side), mode="bicubic") + 0.3 * noise


@pytest.mark.parametrize("seed", range(3))
def test_points_are_those_of_the_whole_resized_map(seed):
    """Only a window of it is computed; boxes of no width, of fewer cells than the map, and large ones."""
    maps = smooth_maps(8, 5, 28, seed)
    generator = torch.Generator().manual_seed(seed)
    sides = torch.rand(8, 2, generator=generator) ** 2 * 300
    sides[0], sides[1] = torch.tensor([0.0, 0.4]), torch.tensor([21.3, 13.0])
    low = torch.rand(8, 2, generator=generator) * 200
    boxes = torch.cat((low, low + sides), dim=1)
    doubled = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
    wanted, most, _ = keypoints(doubled, boxes)
    points, greatest = points_in_boxes(maps.numpy(), boxes.numpy())
    np.testing.assert_allclose(points, wanted.numpy(), atol=1e-3)
    np.testing.assert_allclose(greatest, most.numpy(), atol=1e-4)


def test_a_flat_map_has_its_point_in_the_first_cell():
    points, _ = points_in_boxes(np.zeros((1, 2, 4, 4), np.float32), np.array([[8, 4, 28, 14]], np.float32))
    np.testing.assert_allclose(points, [[[8.5, 4.5]] * 2])


def lively(module: Rcnn) -> Rcnn:
    """Weights by which some regions are sure to be people, boxes move, and points lie somewhere."""
    torch.manual_seed(7)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            gain = 2.0 if "cls_score" in name else 0.4 if "deltas" in name else 1.4
            nn.init.normal_(parameter, std=gain / math.sqrt(parameter[0].numel()))
    nn.init.normal_(module.box_head.bbox_pred.weight, std=0.2)
    return module.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("original", "published"),
    [(TORCHVISION, TORCHVISION_V1), (DETECTRON2, DETECTRON2_CONFIG)],
    ids=["torchvision", "detectron2"],
)
def test_people_are_the_originals(original, published):
    """Same people in the same order, boxes within 0.01 pixels, same keypoints and scores."""
    rules = published.keypoints
    many = ProposalConfig(candidates=50, kept=30, rounds=60, smallest=original.smallest[0])
    config = msgspec.structs.replace(
        MICRO,
        conventions=published.conventions,
        keypoints=msgspec.structs.replace(
            MICRO.keypoints, point_score=rules.point_score, pixel_numbers=rules.pixel_numbers
        ),
        decoding=msgspec.structs.replace(MICRO.decoding, proposals=many, candidates=60, rounds=60, slots=40),
    )
    entry = registry.find("keypoint-rcnn-tiny").from_config(msgspec.to_builtins(config))
    module = lively(entry.build())
    height, width = config.input_size
    image = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    frame = np.ascontiguousarray(image.repeat(8, axis=0).repeat(8, axis=1))
    manifest = entry.manifest(COCO_PEOPLE, Provenance(definition="registry:micro"))
    walk = Walk(manifest, {"main": TorchRunner(entry.deploy(module), manifest.graphs["main"])})
    found = walk(frame)
    row = 1 if original.background_first else 0
    images = entry.normalise(torch.from_numpy(frame[None]))
    wanted = detections(original, config, module, images, [row])
    assert found.settled
    assert len(found) == len(wanted.scores) > 5
    np.testing.assert_allclose(found.scores, wanted.scores.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.boxes, wanted.boxes.numpy(), atol=0.01)
    places, logits, shares = keypoints(wanted.maps, wanted.boxes)
    # Both write COCO records: torchvision what the network says, detectron2 half a pixel less.
    records = np.array([record["keypoints"] for record in found.records(1)]).reshape(-1, 17, 3)
    moved = places.numpy() - (0.0 if original is TORCHVISION else 0.5)
    off = np.abs(records[..., :2] - moved).max(axis=2)
    assert (off > 0.01).mean() <= 0.01, "a maximum may be one of two equal ones"
    scores = torch.sigmoid(logits) if original is TORCHVISION else shares.clamp(max=1)
    np.testing.assert_allclose(records[..., 2], scores.numpy(), atol=1e-3)


# ---------------------------------------------------------------- learning


def test_a_point_is_a_cell_of_its_region():
    """The published rule: floor, the far edge to the last cell, only what is labelled and inside."""
    region = torch.tensor([[10.0, 20.0, 24.0, 27.0]])
    points = [
        (10, 20, 2),
        (23.9, 26.9, 1),
        (24, 27, 2),
        (17, 23.5, 2),
        (17, 23.5, 0),
        (9.9, 21, 2),
        (12, 27.1, 2),
    ]
    cells, known = target_cells(torch.tensor([points]), region, 56)
    wanted = []
    for x, y, visible in points:
        column = 55 if x == 24 else math.floor((x - 10) * 56 / 14)
        row = 55 if y == 27 else math.floor((y - 20) * 56 / 7)
        inside = 0 <= column < 56 and 0 <= row < 56
        wanted.append(56 * row + column if inside and visible else None)
    assert [
        cell if sure else None for cell, sure in zip(cells[0].tolist(), known[0].tolist(), strict=True)
    ] == wanted
    assert wanted.count(None) == 3


def test_the_loss_is_the_mean_entropy_of_the_right_cells():
    """Point by point: the softmax of a doubled map, of those that are labelled and in their region."""
    torch.manual_seed(3)
    stage = KeypointStage(MICRO.keypoint_stage)
    levels = [torch.randn(2, 8, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]
    regions = torch.tensor([[4.0, 8.0, 40.0, 60.0], [30.0, 2.0, 90.0, 50.0], [1.0, 1.0, 12.0, 30.0]])
    images = torch.tensor([0, 1, 1])
    points = torch.rand(3, 17, 3) * torch.tensor([90.0, 60.0, 2.0])
    points[..., 2] = points[..., 2].round()
    found = stage.loss(levels, regions, images, points)
    entropies = []
    for region, image, figure in zip(regions, images.tolist(), points, strict=True):
        pooled = stage.config.pooling.pool([level[[image]] for level in levels], region[None], 7)
        doubled = F.interpolate(stage(pooled), scale_factor=2, mode="bilinear", align_corners=False)[0]
        for map_, (x, y, visible) in zip(doubled, figure.tolist(), strict=True):
            x1, y1, x2, y2 = region.tolist()
            if visible and x1 <= x < x2 and y1 <= y < y2:
                cell = int((y - y1) * 28 / (y2 - y1)), int((x - x1) * 28 / (x2 - x1))
                entropies.append(-map_.flatten().log_softmax(0).reshape(28, 28)[cell])
    assert len(entropies) > 5
    torch.testing.assert_close(found, torch.stack(entropies).mean())
    nobody = stage.loss(levels, regions[:0], images[:0], points[:0])
    assert float(nobody.detach()) == 0.0


def test_the_shipped_file_is_small_and_says_how_it_came_about() -> None:
    path = Path(edgewise.models.__file__).parent / "pretrained" / "keypoint-rcnn-tiny.safetensors"
    assert path.stat().st_size <= 1_000_000
    meta, _ = load_checkpoint(path)
    assert meta.training_command.startswith("edgewise train keypoint-rcnn-tiny --seed 1")
    assert meta.metrics["oks_ap"] >= 0.7
    entry = registry.find("keypoint-rcnn-tiny")
    assert meta.entry().config == entry.config
    assert meta.vocabulary.size == entry.vocabulary_size
