"""Mask R-CNN: the deployed graph against the code bases whose weights it takes, and its published files."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from edgewise.models import registry
from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.rcnn.config import Conventions, MaskConfig
from edgewise.models.families.rcnn.variants import DETECTRON2 as DETECTRON2_CONFIG
from edgewise.models.families.rcnn.variants import MICRO
from edgewise.models.layers.two_stage.proposal_stage import ProposalConfig
from edgewise.models.measuring.torch_runner import TorchRunner
from edgewise.runtime.contract.manifest import Provenance
from edgewise.runtime.contract.postprocessing import MaskRule
from edgewise.runtime.pixels.paste import paste_box_masks, paste_padded_masks
from edgewise.runtime.walk.walk import Walk

from .published_rcnn import DETECTRON2, TORCHVISION, Original, detections

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = [label.id for label in COCO_THINGS]
ORIGINALS = pytest.mark.parametrize(
    ("original", "conventions", "rule"),
    [
        (TORCHVISION, Conventions(), MaskRule.PASTE_PADDED),
        (DETECTRON2, DETECTRON2_CONFIG.conventions, MaskRule.PASTE_ALIGNED),
    ],
    ids=["torchvision", "detectron2"],
)


def small(conventions: Conventions, rule: MaskRule, classes: int, proposals: ProposalConfig, slots: int):
    """The smallest model in an original's conventions, with room for every candidate."""
    changed = msgspec.structs.replace(
        MICRO,
        class_count=classes,
        conventions=conventions,
        mask=MaskConfig(bins=7, convolutions=2, channels=8, rule=rule),
        decoding=msgspec.structs.replace(
            MICRO.decoding, proposals=proposals, candidates=900, rounds=60, slots=slots
        ),
    )
    return registry.find("mask-rcnn-tiny").from_config(msgspec.to_builtins(changed))


def lively(module: nn.Module) -> nn.Module:
    """Weights by which some regions are sure of a class, and boxes move."""
    torch.manual_seed(7)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            gain = 2.0 if "cls_score" in name else 0.4 if "deltas" in name else 1.4
            nn.init.normal_(parameter, std=gain / math.sqrt(parameter[0].numel()))
    nn.init.normal_(module.get_parameter("box_head.bbox_pred.weight"), std=0.2)
    return module.eval()


def both(original: Original, entry: ModelEntry, rows: list[int], seed: int = 0):
    """What the graph gives through the runtime, and what the original does."""
    config, module = entry.config, lively(entry.build())
    height, width = config.input_size
    image = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    frame = np.ascontiguousarray(image.repeat(8, axis=0).repeat(8, axis=1))
    labels = COCO_THINGS[: config.class_count]
    manifest = entry.manifest(Vocabulary(labels), Provenance(definition="registry:micro"))
    walk = Walk(manifest, {"main": TorchRunner(entry.deploy(module), manifest.graphs["main"])})
    result = walk(frame)
    images = entry.normalise(torch.from_numpy(frame[None]))
    return result, detections(original, config, module, images, rows)


def paste(rule: MaskRule, masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    pasting = paste_padded_masks if rule is MaskRule.PASTE_PADDED else paste_box_masks
    return pasting(masks.numpy(), boxes.numpy(), size, 0.5).dense()


@pytest.mark.slow
@ORIGINALS
@pytest.mark.parametrize("classes", [4, 80])
def test_detections_are_the_originals(original, conventions, rule, classes):
    """Same detections in the same order, boxes within 0.01 pixels, equal masks."""
    many = ProposalConfig(candidates=50, kept=30, rounds=60, smallest=original.smallest[0])
    entry = small(conventions, rule, classes, many, slots=40)
    first = 1 if original.background_first else 0
    rows = IDS if original.background_first and classes == 80 else [first + c for c in range(classes)]
    found, wanted = both(original, entry, rows)
    assert found.settled
    assert wanted.proposals == 30
    assert len(wanted.scores) > 15
    assert len(set(wanted.classes.tolist())) > 1
    agree(found, wanted, rule, entry)


@pytest.mark.slow
@ORIGINALS
def test_fewer_proposals_than_slots(original, conventions, rule):
    """Empty slots of the fixed graph take no part in anything."""
    few = ProposalConfig(candidates=15, kept=60, iou_threshold=0.2, rounds=60, smallest=original.smallest[0])
    entry = small(conventions, rule, 4, few, slots=100)
    first = 1 if original.background_first else 0
    found, wanted = both(original, entry, [first + c for c in range(4)])
    assert found.settled
    assert wanted.proposals < 60
    assert 0 < len(wanted.scores) < 100
    agree(found, wanted, rule, entry)


def agree(found, wanted, rule: MaskRule, entry: ModelEntry) -> None:
    assert len(found) == len(wanted.scores)
    np.testing.assert_allclose(found.scores, wanted.scores.numpy(), atol=1e-4)
    np.testing.assert_array_equal(found.classes, wanted.classes.numpy())
    np.testing.assert_allclose(found.boxes, wanted.boxes.numpy(), atol=0.01)
    masks = paste(rule, wanted.maps, wanted.boxes, entry.config.input_size)
    assert masks.any(axis=(1, 2)).sum() > len(masks) // 4
    differing = (found.dense_masks() != masks).sum()
    assert differing <= masks.size * 1e-5
