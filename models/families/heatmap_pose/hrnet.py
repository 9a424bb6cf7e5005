"""HRNet for people: of the branch of stride 4 a heatmap for each keypoint."""

from __future__ import annotations

import msgspec
from torch import Tensor, nn

from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.heatmap_pose import recipes
from edgewise.models.families.heatmap_pose.config import DARK, PoseConfig, dark_targets, rounded_targets
from edgewise.models.families.heatmap_pose.layouts import HRNET
from edgewise.models.families.heatmap_pose.pose import (
    PoseDeploy,
    loss,
    manifest,
    preprocessing,
    raw_heads,
    start_flat,
)
from edgewise.models.layers.hrnet import HRNet, HRNetConfig


class HRNetPoseConfig(PoseConfig, frozen=True):
    """HRNet-W32 for COCO at 256x192."""

    trunk: HRNetConfig = HRNetConfig()


class HRNetPose(nn.Module):
    """Normalised RGB images float32 [N, 3, H, W] -> heatmaps float32 [N, K, H/4, W/4]."""

    def __init__(self, config: HRNetPoseConfig) -> None:
        super().__init__()
        self.trunk = HRNet(config.trunk)
        self.trunk.initialise()
        self.heatmaps = nn.Conv2d(config.trunk.widths[0], config.keypoint_count, 1)
        start_flat(self.heatmaps)

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return self.trunk.stem

    def forward(self, images: Tensor) -> Tensor:
        return self.heatmaps(self.trunk(images)[0])


MICRO = HRNetPoseConfig(
    input_size=(32, 64),
    keypoint_count=3,
    trunk=HRNetConfig(widths=(4, 4, 8, 8), modules=(1, 1, 1), blocks=1, stem_width=4, stem_blocks=1),
    targets=rounded_targets(1),
)
"""The smallest that has every part: for tests."""

FAMILY = Family(
    name="hrnet",
    task="keypoints",
    micro=MICRO,
    named=Named("HRNet finds the keypoints of one class", things=1, keypoints="keypoint_count"),
    build=HRNetPose,
    loss=loss,
    deploy=PoseDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=(HRNET,),
)

_HRNET = "MIT (of the code they were trained with; the weights state no terms of their own)"
_DARK = "Apache-2.0 (of the code they were trained with; the weights state no terms of their own)"
_HRNET_SOURCE, _DARK_SOURCE = "leoxiaobin/deep-high-resolution-net.pytorch", "ilovepose/DarkPose"


def _published(value: float, repository: str) -> tuple[PublishedFigure, ...]:
    source = f"README of {repository}; with the flip test, people of a detector of 0.564 AP"
    return (PublishedFigure("OKS AP", value, "COCO val2017", source),)


W32 = HRNetPoseConfig()
W48 = HRNetPoseConfig(trunk=HRNetConfig(widths=(48, 96, 192, 384)))


def _large(config: HRNetPoseConfig) -> HRNetPoseConfig:
    return msgspec.structs.replace(config, input_size=(384, 288), targets=rounded_targets(3))


def _dark(config: HRNetPoseConfig) -> HRNetPoseConfig:
    return msgspec.structs.replace(config, conventions=DARK, targets=dark_targets(config.targets.sigma))


def _entry(name: str, config: HRNetPoseConfig, value: float) -> ModelEntry:
    return ModelEntry(name, FAMILY, config, recipes.HRNET, _HRNET, _published(value, _HRNET_SOURCE))


def _dark_entry(name: str, config: HRNetPoseConfig, value: float) -> ModelEntry:
    return ModelEntry(name, FAMILY, _dark(config), recipes.HRNET, _DARK, _published(value, _DARK_SOURCE))


ENTRIES = (
    _entry("hrnet-w32-256x192", W32, 0.744),
    _entry("hrnet-w32-384x288", _large(W32), 0.758),
    _entry("hrnet-w48-256x192", W48, 0.751),
    _entry("hrnet-w48-384x288", _large(W48), 0.763),
    _dark_entry("hrnet-w32-256x192-dark", W32, 0.756),
    _dark_entry("hrnet-w32-384x288-dark", _large(W32), 0.766),
    _dark_entry("hrnet-w48-384x288-dark", _large(W48), 0.768),
)
