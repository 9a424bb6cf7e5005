"""The YOLACT network as it is trained: backbone, pyramid, prototypes, shared prediction head, mask IoU.

Keys follow the published layout (`backbone`, `fpn`, `proto_net`, `prediction_layers.0`, `semantic_seg_conv`,
`maskiou_net`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.yolact.config import PrototypeConfig, YolactConfig
from edgewise.models.families.yolact.mask_iou import MaskIouNet
from edgewise.models.families.yolact.priors import priors
from edgewise.models.layers.batch_norm import freeze_batch_norm
from edgewise.models.layers.darknet import DarkNet
from edgewise.models.layers.fpn import FeaturePyramid
from edgewise.models.layers.resnet import ResNet, ResNetConfig


class Predictions(NamedTuple):
    """Raw outputs for P priors, C classes, K prototypes; index 0 of `conf` is the background."""

    loc: Tensor
    """float32 [N, P, 4], regression against the priors."""
    conf: Tensor
    """float32 [N, P, 1 + C], logits."""
    coefficients: Tensor
    """float32 [N, P, K], in -1..1."""
    prototypes: Tensor
    """float32 [N, K, Hp, Wp], not negative."""
    semantic: Tensor | None
    """float32 [N, C, H0, W0] logits on the finest pyramid level; only in training mode."""


class DoubleSize(nn.Module):
    """Bilinear doubling, half-pixel centres."""

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        return F.interpolate(features, size=(2 * height, 2 * width), mode="bilinear")


def prototype_network(inputs: int, config: PrototypeConfig) -> nn.Sequential:
    """The prototype branch up to its last convolution (the closing ReLU is the caller's)."""
    steps: list[nn.Module] = []
    for outputs in config.before:
        steps += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU()]
        inputs = outputs
    # The ReLU behind the doubling changes nothing; it holds the place it has in published checkpoints.
    steps += [DoubleSize(), nn.ReLU()]
    for outputs in config.after:
        steps += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*steps, nn.Conv2d(inputs, config.count, 1))


class PredictionHead(nn.Module):
    """One head for all levels: boxes, class logits and mask coefficients of every prior of a cell."""

    def __init__(self, config: YolactConfig) -> None:
        super().__init__()
        channels, anchors = config.pyramid_channels, config.anchors_per_cell
        self.widths = (4, 1 + config.class_count, config.prototypes.count)
        upfeature: list[nn.Module] = []
        for _ in range(config.head_convolutions):
            upfeature += [nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU()]
        self.upfeature = nn.Sequential(*upfeature)
        self.bbox_layer = nn.Conv2d(channels, anchors * self.widths[0], 3, 1, 1)
        self.conf_layer = nn.Conv2d(channels, anchors * self.widths[1], 3, 1, 1)
        self.mask_layer = nn.Conv2d(channels, anchors * self.widths[2], 3, 1, 1)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, channels, h, w] -> three of [N, h*w*anchors, 4 | 1+C | K]; the last one after tanh."""
        shared = self.upfeature(level)
        loc, conf, coefficients = (
            layer(shared).permute(0, 2, 3, 1).reshape(level.shape[0], -1, width)
            for layer, width in zip(
                (self.bbox_layer, self.conf_layer, self.mask_layer), self.widths, strict=True
            )
        )
        return loc, conf, torch.tanh(coefficients)


class Yolact(nn.Module):
    """Normalised RGB images float32 [N, 3, H, W] -> `Predictions`; masks are judged from outside."""

    priors: Tensor

    def __init__(self, config: YolactConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.pyramid_channels
        self.backbone = (
            ResNet(config.backbone) if isinstance(config.backbone, ResNetConfig) else DarkNet(config.backbone)
        )
        stage_channels = [config.backbone.stage_channels[stage] for stage in config.backbone_stages]
        self.fpn = FeaturePyramid(stage_channels, channels, config.pyramid_downsamples)
        self.proto_net = prototype_network(channels, config.prototypes)
        self.prediction_layers = nn.ModuleList([PredictionHead(config)])
        self.semantic_seg_conv = nn.Conv2d(channels, config.class_count, 1)
        self.maskiou_net = MaskIouNet(config.mask_iou, config.class_count) if config.mask_iou else None
        self.register_buffer("priors", priors(config), persistent=False)
        self._initialise()

    def forward(self, images: Tensor) -> Predictions:
        stages = self.backbone(images)
        levels = self.fpn([stages[stage] for stage in self.config.backbone_stages])
        prototypes = F.relu(self.proto_net(levels[self.config.prototypes.level]))
        head = self.prediction_layers[0]
        predicted = [head(levels[level]) for level in self.config.prediction_levels]
        loc, conf, coefficients = (torch.cat(parts, dim=1) for parts in zip(*predicted, strict=True))
        semantic = self.semantic_seg_conv(levels[0]) if self.training else None
        return Predictions(loc, conf, coefficients, prototypes, semantic)

    def train(self, mode: bool = True) -> Yolact:
        super().train(mode)
        if mode and self.config.freeze_batch_norm:
            freeze_batch_norm(self)
        return self

    def _initialise(self) -> None:
        """Xavier-uniform weights and zero bias outside the backbone, as in the paper's code."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith("backbone."):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.backbone.initialise()
