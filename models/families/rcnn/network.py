"""The networks as they are trained: backbone, pyramid, proposals, boxes, and masks or points where there are
any."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from edgewise.models.families.rcnn.config import RcnnConfig
from edgewise.models.layers.batch_norm import freeze_batch_norm, set_epsilon
from edgewise.models.layers.fpn import NearestFeaturePyramid
from edgewise.models.layers.resnet import ResNet
from edgewise.models.layers.two_stage.box_stage import BoxStage
from edgewise.models.layers.two_stage.keypoint_stage import KeypointStage
from edgewise.models.layers.two_stage.mask_stage import MaskStage
from edgewise.models.layers.two_stage.proposal_stage import ProposalMaps, ProposalStage


class Features(NamedTuple):
    """What the part of the network that sees whole images gives."""

    levels: tuple[Tensor, ...]
    """P2..P5, float32 [N, channels, H/s, W/s], s = 4, 8, 16, 32."""
    proposals: ProposalMaps
    """Of the proposal levels."""


class Rcnn(nn.Module):
    """Normalised images float32 [N, 3, H, W] -> `Features`; the stages on regions are called from outside."""

    def __init__(self, config: RcnnConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.backbone)
        self.fpn = NearestFeaturePyramid(
            config.backbone.stage_channels,
            config.pyramid_channels,
            extra=config.pyramid_extra,
            norm=config.norm,
        )
        self.proposal_head = ProposalStage(config.proposal_stage)
        self.box_head = BoxStage(config.box_stage)
        self.mask_head = None if config.mask is None else MaskStage(config.mask_stage(config.mask))
        self.keypoint_head = KeypointStage(config.keypoint_stage) if config.keypoint_count else None
        set_epsilon(self.backbone, config.batch_norm_epsilon)
        self._initialise()

    def forward(self, images: Tensor) -> Features:
        levels = self.fpn(self.backbone(images))
        proposals = self.proposal_head(levels)
        return Features(levels[: len(self.config.backbone.stage_strides)], proposals)

    def train(self, mode: bool = True) -> Rcnn:
        super().train(mode)
        if mode and self.config.freeze_batch_norm:
            freeze_batch_norm(self)
        if mode:
            self.backbone.freeze(self.config.frozen_stages)
        return self

    def _initialise(self) -> None:
        """He initialisation and zero bias outside the backbone; predictors start near nothing."""
        for name, module in self.named_modules():
            if name.startswith("backbone."):
                continue
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, a=1 if name.startswith("fpn.") else 0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        proposals, box = self.proposal_head, self.box_head
        for module in (proposals.conv, *proposals.further, proposals.objectness, proposals.deltas):
            nn.init.normal_(module.weight, std=0.01)
        nn.init.normal_(box.cls_score.weight, std=0.01)
        nn.init.normal_(box.bbox_pred.weight, std=0.001)
        self.backbone.initialise()
