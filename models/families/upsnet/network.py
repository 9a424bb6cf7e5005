"""The UPSNet network as it is trained: backbone, pyramid and four heads; the panoptic head has no weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgewise.models.families.upsnet.config import UpsnetConfig
from edgewise.models.families.upsnet.heads import BoxHead, MaskHead, ProposalHead, SemanticHead
from edgewise.models.layers.anchors import AnchorRule, cell_anchors, level_anchors
from edgewise.models.layers.batch_norm import freeze_batch_norm
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.fpn import NearestFeaturePyramid
from edgewise.models.layers.resnet import ResNet
from edgewise.models.layers.roi_align import deploy_pyramid_roi_align, pyramid_roi_align, roi_levels

PROPOSAL_CODING = BoxCoding(plus_one=True)
REGION_CODING = BoxCoding(weights=(10.0, 10.0, 5.0, 5.0), plus_one=True)


class Features(NamedTuple):
    """What the part of the network that sees whole images gives, with A anchors a cell."""

    levels: tuple[Tensor, ...]
    """P2..P5, float32 [N, channels, H/s, W/s], s = 4, 8, 16, 32."""
    objectness: tuple[Tensor, ...]
    """Logits float32 [N, A, h, w] of each proposal level, finest first."""
    deltas: tuple[Tensor, ...]
    """float32 [N, 4 A, h, w] against the anchors, a cell's anchors outermost."""
    semantic: Tensor
    """float32 [N, 4 * channels, H/4, W/4], what the semantic scores are read from."""
    scores: Tensor
    """float32 [N, stuff + things, H/4, W/4] semantic logits, stuff first."""


class Upsnet(nn.Module):
    """Normalised images float32 [N, 3, H, W] -> `Features`; the heads on regions are called from outside."""

    def __init__(self, config: UpsnetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.backbone)
        self.fpn = NearestFeaturePyramid(
            config.backbone.stage_channels,
            config.pyramid_channels,
            context=config.pyramid_global,
            extra=config.pyramid_extra,
        )
        self.proposal_head = ProposalHead(config)
        self.box_head = BoxHead(config)
        self.mask_head = MaskHead(config)
        self.semantic_head = SemanticHead(config)
        for index, level in enumerate(anchors(config)):
            self.register_buffer(f"anchors_{index}", level, persistent=False)
        self.deploy = False
        self._initialise()

    @property
    def anchors(self) -> tuple[Tensor, ...]:
        """Anchors of each proposal level, float32 [h * w * A, 4], inclusive corners in input pixels."""
        return tuple(getattr(self, f"anchors_{index}") for index in range(len(self.config.level_strides)))

    def forward(self, images: Tensor) -> Features:
        levels = self.fpn(self.backbone(images))
        objectness, deltas = self.proposal_head(levels)
        levels = levels[: len(self.config.backbone.stage_strides)]
        semantic = self.semantic_head.features(levels)
        return Features(levels, objectness, deltas, semantic, self.semantic_head.score(semantic))

    def pool(
        self, levels: tuple[Tensor, ...], regions: Tensor, bins: int, images: Tensor | None = None
    ) -> Tensor:
        """Features of regions, each from the level that fits its size.

        Args:
            levels: P2..P5.
            regions: float32 [R, 4], inclusive corners, input pixels.
            bins: Output side.
            images: int64 [R], which image each region lies in; None, as always in deploy form: the first.

        Returns:
            float32 [R, channels, bins, bins].
        """
        level = roi_levels(
            regions,
            lowest=0,
            highest=len(levels) - 1,
            canonical_level=2,
            canonical_size=self.config.canonical_size,
            plus_one=True,
        )
        strides = self.config.backbone.stage_strides
        sampling = self.config.region_samples_per_bin
        if self.deploy:
            return deploy_pyramid_roi_align(levels, regions, level, strides, output=bins, sampling=sampling)
        return pyramid_roi_align(
            levels, regions, level, strides, output=bins, sampling=sampling, images=images
        )

    def train(self, mode: bool = True) -> Upsnet:
        super().train(mode)
        if mode and self.config.freeze_batch_norm:
            freeze_batch_norm(self)
        if mode and self.config.frozen_stages:
            backbone = self.backbone
            for module in (backbone.conv1, backbone.bn1, *backbone.layers[: self.config.frozen_stages]):
                module.eval()
                module.requires_grad_(False)
        return self

    def _initialise(self) -> None:
        """Xavier-uniform weights and zero bias outside the backbone; predictors start near nothing."""
        for name, module in self.named_modules():
            if name.startswith("backbone.") or name.endswith("conv_offset"):
                continue
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in (self.proposal_head.objectness, self.proposal_head.deltas, self.box_head.cls_score):
            nn.init.normal_(module.weight, std=0.01)
        nn.init.normal_(self.box_head.bbox_pred.weight, std=0.001)
        self.backbone.initialise()


def anchors(config: UpsnetConfig) -> tuple[Tensor, ...]:
    """The anchors of every level, float32 [cells * anchors, 4], inclusive corners in input pixels.

    Within a cell: scale by scale, the ratios of each together.
    """
    ratios = config.anchors.ratios
    levels = []
    for grid, stride in zip(config.level_sizes, config.level_strides, strict=True):
        cells = [
            cell_anchors(scale * stride, stride, ratios, AnchorRule.DETECTRON)
            for scale in config.anchors.scales
        ]
        levels.append(level_anchors(torch.cat(cells), grid, stride))
    return tuple(levels)
