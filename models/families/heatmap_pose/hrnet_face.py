"""HRNetV2 for faces: all branches together at stride 4, two 1x1 convolutions, a heatmap for each landmark."""

from __future__ import annotations

from torch import Tensor, nn

from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.heatmap_pose import recipes
from edgewise.models.families.heatmap_pose.config import FACE, Conventions, PoseConfig
from edgewise.models.families.heatmap_pose.layouts import HRNET_FACE
from edgewise.models.families.heatmap_pose.pose import (
    PoseDeploy,
    loss,
    manifest,
    preprocessing,
    raw_heads,
    start_flat,
)
from edgewise.models.families.heatmap_targets import TargetConfig
from edgewise.models.layers.hrnet import HRNet, HRNetConfig, joined

MOMENTUM = 0.01
"""Of the batch normalisation's statistics."""


class HRNetFaceConfig(PoseConfig, frozen=True):
    """HRNetV2-W18 for WFLW's 98 points.

    The published targets' Gaussian is cut off at 4 cells on one side and 5 on the other, and sits a cell too
    far right or down within 4 cells of the left or upper border; those here do neither.
    """

    input_size: tuple[int, int] = (256, 256)
    keypoint_count: int = 98
    conventions: Conventions = FACE
    targets: TargetConfig = TargetConfig(sigma=1.5, radius=4)
    loss_weight: float = 1.0
    trunk: HRNetConfig = HRNetConfig(widths=(18, 36, 72, 144), keeps_branches=True, bilinear=True)


class HRNetFace(nn.Module):
    """Normalised RGB images float32 [N, 3, H, W] -> heatmaps float32 [N, K, H/4, W/4]."""

    def __init__(self, config: HRNetFaceConfig) -> None:
        super().__init__()
        self.trunk = HRNet(config.trunk)
        width = sum(config.trunk.widths)
        output = nn.Conv2d(width, config.keypoint_count, 1)
        self.heatmaps = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(), output)
        self.trunk.initialise()
        start_flat(output)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return self.trunk.stem

    def forward(self, images: Tensor) -> Tensor:
        return self.heatmaps(joined(self.trunk(images)))


MICRO = HRNetFaceConfig(
    input_size=(32, 64),
    keypoint_count=3,
    trunk=HRNetConfig(
        widths=(4, 4, 8, 8),
        modules=(1, 1, 1),
        blocks=1,
        stem_width=4,
        stem_blocks=1,
        keeps_branches=True,
        bilinear=True,
    ),
)
"""The smallest that has every part: for tests."""

FAMILY = Family(
    name="hrnet-face",
    task="keypoints",
    micro=MICRO,
    named=Named("HRNetV2 finds the keypoints of one class", things=1, keypoints="keypoint_count"),
    build=HRNetFace,
    loss=loss,
    deploy=PoseDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=(HRNET_FACE,),
)

ENTRIES = (
    ModelEntry(
        "hrnet-w18-face",
        FAMILY,
        HRNetFaceConfig(),
        recipes.FACE,
        "MIT (of the code they were trained with; the weights state no terms of their own)",
        (PublishedFigure("NME", 0.0460, "WFLW test", "README of HRNet/HRNet-Facial-Landmark-Detection"),),
    ),
)
