"""The mask branch: a small map of each region for each class (He et al., 2017, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.boxes import exclusive
from edgewise.models.layers.convolution import convolution
from edgewise.models.layers.roi_align import roi_align
from edgewise.models.layers.two_stage.class_rows import ClassRows
from edgewise.models.layers.two_stage.region_pooling import RegionPooling


class MaskTargets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an object's mask becomes the map that a region should give: RoIAlign of the mask, then a threshold.

    Attributes:
        plus_one: Corners of regions are inclusive; they are read to the end of their last pixel.
        half_pixel: RoIAlign reads continuous coordinates; else those of pixel centres.
        samples_per_bin: Samples along each axis of a cell.
        threshold: A cell of at least this share is 1, any other 0; None: the share itself is learnt.
    """

    plus_one: bool
    half_pixel: bool
    samples_per_bin: int
    threshold: float | None

    @torch.no_grad()
    def read(self, masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
        """Masks [n, H, W] of objects int64 [r] inside boxes float32 [r, 4] -> [r, side, side] in 0..1."""
        if len(boxes) == 0:
            return boxes.new_zeros(0, side, side)
        read = roi_align(
            masks.to(boxes.dtype)[:, None],
            exclusive(boxes) if self.plus_one else boxes,
            output=side,
            scale=1.0,
            sampling=self.samples_per_bin,
            half_pixel=self.half_pixel,
            images=objects,
        )
        shares = read[:, 0]
        return shares if self.threshold is None else (shares >= self.threshold).to(boxes.dtype)


class MaskStageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and conventions of the stage.

    Attributes:
        inputs: Channels of the pyramid.
        pooling: How regions are read from it.
        bins: Side of a pooled region; maps are twice as large.
        channels: Of the hidden layers.
        convolutions: How many 3x3 convolutions come before the map is doubled.
        norm: They have batch normalisation, and no bias.
        rows: Of the mask logits.
        targets: How the wanted maps are read.
    """

    inputs: int
    pooling: RegionPooling
    bins: int
    channels: int
    convolutions: int
    norm: bool
    rows: ClassRows
    targets: MaskTargets

    @property
    def side(self) -> int:
        """Of a map."""
        return 2 * self.bins


class MaskStage(nn.Module):
    """Mask logits of every class at twice the pooled resolution; rows of the background are never read.

    Keys: `convolutions.{i}`, `doubling`, `score`, each `.{weight,bias}`; with `norm`
    `convolutions.{i}.{weight,norm.*}`.
    """

    def __init__(self, config: MaskStageConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.convolutions = nn.ModuleList(
            convolution(config.inputs if index == 0 else channels, channels, 3, norm=config.norm)
            for index in range(config.convolutions)
        )
        self.doubling = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.score = nn.Conv2d(channels, config.rows.count, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """[R, inputs, bins, bins] -> [R, rows, side, side]."""
        for hidden in self.convolutions:
            pooled = F.relu(hidden(pooled))
        return self.score(F.relu(self.doubling(pooled)))

    def logits(self, levels: Sequence[Tensor], regions: Tensor, classes: Tensor, images: Tensor) -> Tensor:
        """Differentiable logits of each region's class.

        Args:
            levels: float [N, inputs, H_l, W_l] each.
            regions: float [R, 4], corner form; R may be 0.
            classes: int64 [R].
            images: int64 [R], which image each region lies in.

        Returns:
            float [R, side, side].
        """
        every = self(self.config.pooling.pool(levels, regions, self.config.bins, images))
        return every[torch.arange(len(classes), device=classes.device), self.config.rows.of(classes)]

    def loss(
        self,
        logits: Sequence[Tensor],
        masks: Sequence[Tensor],
        regions: Sequence[Tensor],
        objects: Sequence[Tensor],
    ) -> Tensor:
        """Mean binary cross-entropy over the cells of all foreground regions.

        Args:
            logits: Of each image float [r, side, side], as `logits` gives them.
            masks: Of each image [n, H, W] of 0 and 1.
            regions: Of each image float [r, 4], corner form.
            objects: Of each image int64 [r]: the object that each region answers for.
        """
        side = self.config.side
        given = torch.cat(tuple(logits))
        wanted = torch.cat(
            [self.config.targets.read(*image, side) for image in zip(masks, regions, objects, strict=True)]
        )
        entropy = F.binary_cross_entropy_with_logits(given, wanted, reduction="sum")
        return entropy / max(len(given), 1) / side**2

    def masks(self, levels: Sequence[Tensor], regions: Tensor, classes: Tensor) -> Tensor:
        """`logits` of one image in exportable operators: the class's map by a one-hot sum.

        Args:
            levels: float32 [1, inputs, H_l, W_l] each.
            regions: float32 [R, 4], corner form.
            classes: int64 [R].

        Returns:
            float32 [R, side, side].
        """
        rows = self.config.rows
        every = rows.select(self(self.config.pooling.deploy(levels, regions, self.config.bins)))
        chosen = (classes[:, None] == torch.arange(rows.classes, device=classes.device)).to(every.dtype)
        return (every * chosen[:, :, None, None]).sum(dim=1)
