"""A two-stage detector as libraries write it, with code that follows the data, and in fixed shapes.

Run it:

    python examples/two_stage_detector.py detector.bundle

`detect_dynamic` is what torchvision-like code does: boolean masks, as many boxes as there are, one
suppression a class. `FixedDetector` gives the same detections in slots, with the layers of
`edgewise.models.layers`; the test of this example compares them. The weights are seeded, not trained: what it
finds means nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgewise.exporter.way.export import export_bundle
from edgewise.models.layers.anchors import AnchorRule, per_anchor, pyramid_anchors
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.nms import greedy_nms
from edgewise.models.layers.roi_align import roi_align_op
from edgewise.models.layers.two_stage.proposal_stage import ProposalConfig, proposals
from edgewise.runtime.contract.manifest import (
    ClassLabel,
    DType,
    Graph,
    Manifest,
    Provenance,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import PastedInstances
from edgewise.runtime.contract.preprocessing import Stretch

SIZE, STRIDE, CHANNELS = 128, 8, 16
GRID = SIZE // STRIDE
NAMES = ("circle", "square")
CLASSES = len(NAMES)
CANDIDATES, PROPOSALS, SLOTS = 200, 50, 10
"""Anchors that are looked at, regions that the second stage looks at, detections that the graph gives."""
PROPOSAL_IOU, BOX_IOU, SCORE = 0.7, 0.5, 0.38
BOX_BINS, MASK_BINS = 7, 14
EXTENT = (float(SIZE), float(SIZE))
PROPOSAL_CODING, BOX_CODING = BoxCoding(), BoxCoding(weights=(10.0, 10.0, 5.0, 5.0))
LIMITS = ProposalConfig(candidates=CANDIDATES, kept=PROPOSALS, iou_threshold=PROPOSAL_IOU, rounds=24)
ROUNDS = 16


class TwoStage(nn.Module):
    """The layers, which both forms share."""

    anchors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(into, CHANNELS, 3, 2, 1), nn.ReLU())
                for into in (3, CHANNELS, CHANNELS)
            )
        )
        self.objectness, self.deltas = nn.Conv2d(CHANNELS, 3, 1), nn.Conv2d(CHANNELS, 12, 1)
        self.hidden = nn.Linear(CHANNELS * BOX_BINS**2, 32)
        self.classes, self.boxes = nn.Linear(32, CLASSES + 1), nn.Linear(32, 4 * CLASSES)
        self.masks = nn.Sequential(nn.ConvTranspose2d(CHANNELS, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, CLASSES, 1))
        (anchors,) = pyramid_anchors([(GRID, GRID)], [STRIDE], [[32.0]], rule=AnchorRule.TORCHVISION)
        self.register_buffer("anchors", anchors)

    def features(self, image: Tensor) -> Tensor:
        return self.backbone(image.float().permute(0, 3, 1, 2) / 255.0)

    def second_stage(self, features: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [R, 4] -> probabilities [R, CLASSES], boxes of each class [R, CLASSES, 4]."""
        pooled = roi_align_op(features, rois, BOX_BINS, 1 / STRIDE, 2, False)
        hidden = functional.relu(self.hidden(pooled.flatten(1)))
        deltas = self.boxes(hidden).unflatten(1, (CLASSES, 4))
        boxes = BOX_CODING.clip(BOX_CODING.decode(deltas, rois[:, None]), EXTENT)
        return self.classes(hidden).softmax(dim=1)[:, :CLASSES], boxes


def detect_dynamic(network: TwoStage, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [n, 4], scores [n] and classes [n] as torchvision finds them; no exporter takes this."""
    features = network.features(image)
    scores = per_anchor(network.objectness(features), 1)[0, :, 0].sigmoid()
    boxes = PROPOSAL_CODING.decode(per_anchor(network.deltas(features), 4)[0], network.anchors)
    scores, order = scores.sort(descending=True, stable=True)
    boxes = PROPOSAL_CODING.clip(boxes, EXTENT)[order][:CANDIDATES]
    rois = boxes[_sequential_nms(boxes, PROPOSAL_IOU)][:PROPOSALS]

    probabilities, boxes = network.second_stage(features, rois)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for label in range(CLASSES):
        there = probabilities[:, label] > SCORE
        score, order = probabilities[there, label].sort(descending=True, stable=True)
        box = boxes[there, label][order]
        kept = _sequential_nms(box, BOX_IOU)
        found.append((box[kept], score[kept], torch.full((len(kept),), label)))
    every = [torch.cat(parts) for parts in zip(*found, strict=True)]
    best = every[1].argsort(descending=True, stable=True)[:SLOTS]
    return every[0][best], every[1][best], every[2][best]


def _sequential_nms(boxes: Tensor, threshold: float) -> list[int]:
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    kept: list[int] = []
    for index, box in enumerate(boxes):
        inner = (torch.minimum(boxes[kept, 2:], box[2:]) - torch.maximum(boxes[kept, :2], box[:2])).clamp(
            min=0
        )
        shared = inner.prod(dim=1)
        if not bool((shared > threshold * (areas[kept] + areas[index] - shared)).any()):
            kept.append(index)
    return kept


class FixedDetector(nn.Module):
    """The deploy module: the same detections in fixed shapes, and masks for them.

    | dynamic | here |
    |---|---|
    | as many proposals as survive | `proposals`: always PROPOSALS of them, `valid` says which are there |
    | `scores[scores > t]` | `torch.where(there, score, 0)`, then the K best by `topk` |
    | one suppression a class | `greedy_nms` over all, with the class as the group |
    | `boxes[keep]` | the best SLOTS by `topk`, rows by `index_select`; an empty slot has score 0 |
    | `masks[range(n), classes]` | `index_select` of one row in the flat [SLOTS * CLASSES] |
    """

    def __init__(self, network: TwoStage) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        network = self.network
        features = network.features(image)
        objectness, deltas = network.objectness(features), network.deltas(features)
        found = proposals(
            [objectness], [deltas], [network.anchors], coding=PROPOSAL_CODING, extent=EXTENT, config=LIMITS
        )
        probabilities, boxes = network.second_stage(features, found.boxes[0])

        there = found.valid[0][:, None] & (probabilities > SCORE)
        ranked, index = torch.where(there, probabilities, 0.0).flatten().topk(PROPOSALS * CLASSES)
        labels = index % CLASSES
        ranked_boxes = torch.index_select(boxes.reshape(-1, 4), 0, index)
        keep, settled = greedy_nms(
            ranked_boxes[None], labels[None].float(), (ranked > 0)[None], BOX_IOU, rounds=ROUNDS
        )
        scores, chosen = torch.where(keep[0], ranked, 0.0).topk(SLOTS)
        filled = (scores > 0)[:, None]
        slots = torch.where(filled, torch.index_select(ranked_boxes, 0, chosen), 0.0)
        classes = torch.index_select(labels, 0, chosen)

        pooled = roi_align_op(features, slots, MASK_BINS, 1 / STRIDE, 2, False)
        maps = network.masks(pooled).flatten(0, 1)  # [SLOTS * CLASSES, 28, 28]
        masks = torch.index_select(maps, 0, torch.arange(SLOTS) * CLASSES + classes).sigmoid()
        return {
            "boxes": slots[None],
            "scores": scores[None],
            "classes": classes.to(torch.int32)[None],
            "masks": masks[None],
            "settled": (found.settled & settled).to(torch.int32),
            "objectness": objectness,
            "deltas": deltas,
        }


def detector() -> TwoStage:
    """Seeded weights, with heads so strong that scores differ and a plain picture shows nothing."""
    torch.manual_seed(7)
    network = TwoStage().eval()
    with torch.no_grad():
        network.objectness.weight.mul_(8.0)
        network.classes.weight.mul_(40.0)
    return network


def draft_manifest() -> Manifest:
    side = 2 * MASK_BINS

    def tensor(name: str, shape: tuple[int, ...], dtype: DType = DType.FLOAT32) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    graph = Graph(
        inputs=(tensor("image", (1, SIZE, SIZE, 3), DType.UINT8),),
        outputs=(
            tensor("boxes", (1, SLOTS, 4)),
            tensor("scores", (1, SLOTS)),
            tensor("classes", (1, SLOTS), DType.INT32),
            tensor("masks", (1, SLOTS, side, side)),
            tensor("settled", (1,), DType.INT32),
        ),
        probes=(tensor("objectness", (1, 3, GRID, GRID)), tensor("deltas", (1, 12, GRID, GRID))),
    )
    return Manifest(
        writer="two_stage_detector.py",
        name="two-stage",
        classes=tuple(ClassLabel(id=number, name=name) for number, name in enumerate(NAMES, 1)),
        provenance=Provenance(definition="two_stage_detector.FixedDetector"),
        graphs={"main": graph},
        preprocess=Stretch(size=(SIZE, SIZE)),
        postprocess=PastedInstances(settled="settled", score_threshold=SCORE, display_threshold=SCORE),
    )


def main(destination: str) -> None:
    bundle = export_bundle({"main": FixedDetector(detector())}, draft_manifest(), Path(destination))
    print(f"wrote {bundle.path}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/two_stage_detector.py BUNDLE")
    main(sys.argv[1])
