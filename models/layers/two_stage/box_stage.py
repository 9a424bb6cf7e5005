"""The second stage: the class of a region and its box for that class (Girshick, 2015; Ren et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.convolution import NormalisedConvolution
from edgewise.models.layers.nms import greedy_nms
from edgewise.models.layers.two_stage.class_rows import ClassRows
from edgewise.models.layers.two_stage.region_pooling import RegionPooling
from edgewise.models.layers.two_stage.sampling import Regions


class Candidates(NamedTuple):
    """Pairs of a region and a class, by falling score."""

    scores: Tensor
    """float32 [K], probability of the class; 0 = none."""
    regions: Tensor
    """int64 [K], index of the region."""
    classes: Tensor
    """int64 [K]."""
    groups: Tensor | None
    """[1, K]: only candidates of one group suppress each other; None: all do."""
    complete: Tensor | None
    """bool []: nothing that could take part is missing; None: nothing ever is."""


class ClearClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A region is a candidate for its best class, and suppression knows no classes (UPSNet's panoptic path).

    Attributes:
        score_threshold: The class must be more probable; at least one half, so that no region can have two.
    """

    score_threshold: float

    def __post_init__(self) -> None:
        if not 0.5 <= self.score_threshold <= 1.0:
            raise ValueError(f"score_threshold lies in 0.5..1, got {self.score_threshold}")

    def candidates_of(self, probabilities: Tensor, valid: Tensor) -> Candidates:
        """Probabilities float32 [K, classes] of the regions, and which of them are there, bool [K]."""
        best, classes = probabilities.max(dim=1)
        taking = valid & (best > self.score_threshold)
        ranked, index = torch.where(taking, best, 0.0).topk(len(probabilities))
        return Candidates(ranked, index, classes.index_select(0, index), None, None)


class EveryClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A region is a candidate for every class that is probable enough, and suppression is class by class
    (Faster R-CNN).

    The original lets all pairs of a region and a class compete. Of fixed shape, the best of them do: no pair
    can suppress a better one, so that the detections are the original's as soon as they fill all slots, or
    when no pair was left out. The graph says whether it is so.

    Attributes:
        score_threshold: The class must be more probable.
        candidates: Pairs that compete, at most 3840 (the largest K of TensorRT's TopK).
    """

    score_threshold: float
    candidates: int

    def candidates_of(self, probabilities: Tensor, valid: Tensor) -> Candidates:
        """As `ClearClass.candidates_of`."""
        regions, labels = probabilities.shape
        taking = valid[:, None] & (probabilities > self.score_threshold)
        count = min(self.candidates, regions * labels)
        ranked, pair = torch.where(taking, probabilities, 0.0).flatten().topk(count)
        region = torch.div(pair, labels, rounding_mode="floor")
        classes = pair - region * labels
        # The last one is empty, or it is the last of all.
        complete = (ranked[-1] <= 0.0) if count < regions * labels else None
        return Candidates(ranked, region, classes, classes[None], complete)


class BoxDecoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From scored regions to detections.

    Attributes:
        choice: Which pairs of region and class are candidates, and which of them suppress each other.
        smallest: Candidates whose box has a side (after clipping) below this many pixels take no part.
        iou_threshold: Of the suppression, in (0, 1].
        rounds: Of the suppression, at least 2.
        slots: Detections of an image.
    """

    choice: ClearClass | EveryClass
    smallest: float
    iou_threshold: float
    rounds: int
    slots: int


class BoxStageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and conventions of the stage.

    Attributes:
        inputs: Channels of the pyramid.
        pooling: How regions are read from it.
        bins: Side of a pooled region.
        convolutions: How many 3x3 convolutions of `inputs` channels, with batch normalisation and no bias,
            the pooled region passes first.
        channels: Of the hidden layers.
        layers: How many, 1 or 2.
        logits: Rows of the class logits.
        background: The background's row among them.
        regression: Rows of the box regression.
        coding: Box regression and corner convention.
        extent: (height, width) that boxes are clipped to.
        beta: Where the smooth L1 loss turns linear; 0: L1.
        decoding: From regions to detections.
    """

    inputs: int
    pooling: RegionPooling
    bins: int
    convolutions: int
    channels: int
    layers: int
    logits: ClassRows
    background: int
    regression: ClassRows
    coding: BoxCoding
    extent: tuple[int, int]
    beta: float
    decoding: BoxDecoding


class Detections(NamedTuple):
    """K slots of one image, best first; empty slots are at the end."""

    boxes: Tensor
    """float32 [K, 4], corner form, clipped; 0 in empty slots."""
    scores: Tensor
    """float32 [K]; 0 in empty slots."""
    classes: Tensor
    """int64 [K]; 0 in empty slots."""
    settled: Tensor
    """bool []: proven to be what sequential suppression of all candidates gives."""


class BoxStage(nn.Module):
    """Hidden layers on pooled regions, then class logits and one box for each class.

    Keys: `fc6`, `fc7` (where there are two), `cls_score`, `bbox_pred`, each `.{weight,bias}`;
    `convolutions.{i}.{weight,norm.*}`.
    """

    def __init__(self, config: BoxStageConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.convolutions = nn.ModuleList(
            NormalisedConvolution(config.inputs, config.inputs, 3) for _ in range(config.convolutions)
        )
        self.fc6 = nn.Linear(config.inputs * config.bins**2, channels)
        self.fc7 = nn.Linear(channels, channels) if config.layers > 1 else None
        self.cls_score = nn.Linear(channels, config.logits.count)
        self.bbox_pred = nn.Linear(channels, 4 * config.regression.count)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[R, inputs, bins, bins] -> class logits [R, rows], deltas [R, rows, 4]."""
        for convolution in self.convolutions:
            pooled = F.relu(convolution(pooled))
        hidden = F.relu(self.fc6(pooled.flatten(1)))
        if self.fc7 is not None:
            hidden = F.relu(self.fc7(hidden))
        deltas = self.bbox_pred(hidden).unflatten(1, (self.config.regression.count, 4))
        return self.cls_score(hidden), deltas

    def loss(self, levels: Sequence[Tensor], regions: Regions) -> tuple[Tensor, Tensor]:
        """Class term: mean cross-entropy. Box term: smooth L1 of the true class's box, foreground only.

        Both are divided by the number of all regions, foreground or not.
        """
        config = self.config
        logits, deltas = self(config.pooling.pool(levels, regions.boxes, config.bins, regions.images))
        classes = torch.cat([item.classes for item in regions.per_image])
        boxes = torch.cat([item.deltas for item in regions.per_image])
        positive = torch.nonzero(classes >= 0).flatten()
        difference = F.smooth_l1_loss(
            deltas[positive, config.regression.of(classes[positive])],
            boxes[positive],
            beta=config.beta,
            reduction="sum",
        )
        wanted = torch.where(classes >= 0, config.logits.of(classes), config.background)
        count = max(len(wanted), 1)
        return F.cross_entropy(logits, wanted, reduction="sum") / count, difference / count

    def detect(
        self, levels: Sequence[Tensor], regions: Tensor, valid: Tensor, order: Tensor | None = None
    ) -> Detections:
        """The best candidates after suppression, in exportable operators.

        Args:
            levels: float32 [1, inputs, H_l, W_l] each.
            regions: float32 [R, 4], corner form.
            valid: bool [R]; the others are not there.
            order: From `nms.rank_order` for at least R, to share it with other suppressions of the same
                graph; None: made here.

        Returns:
            `slots` detections.
        """
        config, decoding = self.config, self.config.decoding
        logits, deltas = self(config.pooling.deploy(levels, regions, config.bins))
        probabilities = config.logits.select(torch.softmax(logits, dim=1))
        ranked, index, classes, groups, complete = decoding.choice.candidates_of(probabilities, valid)
        # The class's own row of the regression, as one flat Gather.
        row = index * config.regression.count + config.regression.of(classes)
        own = deltas.flatten(0, 1).index_select(0, row)
        decoded = config.coding.decode(own, regions.index_select(0, index))
        boxes = config.coding.clip(decoded, config.extent)
        taking = ranked > 0.0
        if decoding.smallest > 0.0:
            taking = taking & (torch.minimum(*config.coding.sides(boxes)) >= decoding.smallest)
        keep, proven = greedy_nms(
            boxes[None],
            groups,
            taking[None],
            decoding.iou_threshold,
            decoding.rounds,
            plus_one=config.coding.plus_one,
            order=order,
        )
        scores, place = (ranked * keep[0].to(ranked.dtype)).topk(min(decoding.slots, len(ranked)))
        full = scores > 0.0
        settled = proven[0]
        missing = decoding.slots - len(scores)
        if complete is not None:
            settled = settled & (complete | full[-1] if missing <= 0 else complete)
        boxes = boxes.index_select(0, place) * full.to(boxes.dtype)[:, None]
        classes = classes.index_select(0, place) * full.to(classes.dtype)
        if missing > 0:
            boxes = F.pad(boxes, (0, 0, 0, missing))
            scores, classes = F.pad(scores, (0, missing)), F.pad(classes, (0, missing))
        return Detections(boxes, scores, classes, settled)
