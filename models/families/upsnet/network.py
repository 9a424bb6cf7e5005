"""The UPSNet network as it is trained: backbone, pyramid and four heads; the panoptic head has no weights."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from edgewise.models.families.upsnet.config import UpsnetConfig
from edgewise.models.families.upsnet.semantic_head import SemanticHead
from edgewise.models.layers.batch_norm import freeze_batch_norm
from edgewise.models.layers.fpn import NearestFeaturePyramid
from edgewise.models.layers.resnet import ResNet
from edgewise.models.layers.two_stage.box_stage import BoxStage
from edgewise.models.layers.two_stage.mask_stage import MaskStage
from edgewise.models.layers.two_stage.proposal_stage import ProposalMaps, ProposalStage


class Features(NamedTuple):
    """What the part of the network that sees whole images gives."""

    levels: tuple[Tensor, ...]
    """P2..P5, float32 [N, channels, H/s, W/s], s = 4, 8, 16, 32."""
    proposals: ProposalMaps
    """Of the proposal levels."""
    semantic: Tensor
    """float32 [N, 4 * channels, H/4, W/4], what the semantic scores are read from."""
    scores: Tensor
    """float32 [N, stuff + things, H/4, W/4] semantic logits, stuff first."""


class Upsnet(nn.Module):
    """Normalised images float32 [N, 3, H, W] -> `Features`; the stages on regions are called from outside."""

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
        self.proposal_head = ProposalStage(config.proposal_stage)
        self.box_head = BoxStage(config.box_stage)
        self.mask_head = MaskStage(config.mask_stage)
        self.semantic_head = SemanticHead(config)
        self._initialise()

    def forward(self, images: Tensor) -> Features:
        levels = self.fpn(self.backbone(images))
        proposals = self.proposal_head(levels)
        levels = levels[: len(self.config.backbone.stage_strides)]
        semantic = self.semantic_head.features(levels)
        return Features(levels, proposals, semantic, self.semantic_head.score(semantic))

    def train(self, mode: bool = True) -> Upsnet:
        super().train(mode)
        if mode and self.config.freeze_batch_norm:
            freeze_batch_norm(self)
        if mode:
            self.backbone.freeze(self.config.frozen_stages)
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
