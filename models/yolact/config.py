"""What distinguishes one YOLACT from another: all sizes, thresholds and loss weights, as frozen structs."""

from __future__ import annotations

import enum

import msgspec

from edgewise.models.layers.darknet import DarkNetConfig
from edgewise.models.layers.resnet import ResNetConfig


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the structs of this file."""


class AnchorConfig(Config, frozen=True):
    """Priors of every cell: for each scale, for each ratio w/h, of the level."""

    scales: tuple[tuple[float, ...], ...] = ((24,), (48,), (96,), (192,), (384,))
    """Network pixels, one tuple a prediction level, all of one length."""
    ratios: tuple[float, ...] = (1.0, 0.5, 2.0)
    square: bool = True
    """The published COCO models take h = w = scale * sqrt(ratio), a slip that is now part of them."""


class PrototypeConfig(Config, frozen=True):
    """3x3 convolutions before and after one bilinear doubling, then a 1x1 to `count` prototypes."""

    level: int = 0
    """Which pyramid level feeds it."""
    before: tuple[int, ...] = (256, 256, 256)
    after: tuple[int, ...] = (256,)
    count: int = 32


class MatchingConfig(Config, frozen=True):
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    crowd_coverage: float = 0.7


class LossConfig(Config, frozen=True):
    box_weight: float = 1.5
    class_weight: float = 1.0
    mask_weight: float = 6.125
    semantic_weight: float = 1.0
    negatives_per_positive: int = 3
    mask_positives_limit: int = 100


class Suppression(enum.Enum):
    FAST = "fast"
    """Per class, one round: a box falls to any better one, even to one that has fallen itself."""
    CROSS_CLASS_FAST = "cross-class-fast"
    """The same over all classes at once, each prior with its best class."""
    GREEDY = "greedy"
    """Per class, exact sequential suppression."""


class DecodingConfig(Config, frozen=True):
    suppression: Suppression = Suppression.FAST
    score_threshold: float = 0.05
    """A prior takes part when its best foreground probability is above."""
    iou_threshold: float = 0.5
    candidates: int = 200
    """Best-scored priors per class (over all classes: cross-class) that enter the suppression."""
    slots: int = 100
    greedy_candidates: int = 1000
    """Greedy: best (prior, class) pairs that enter the suppression."""
    greedy_rounds: int = 24
    """Rounds of the fixed-point iteration; a longer chain of suppression gives settled = 0."""


class YolactConfig(Config, frozen=True):
    """One YOLACT. The defaults are the published ResNet-50 at 550x550 on COCO."""

    input_size: tuple[int, int] = (550, 550)
    """Height, width."""
    class_count: int = 80
    backbone: ResNetConfig | DarkNetConfig = msgspec.field(default_factory=ResNetConfig)
    backbone_stages: tuple[int, ...] = (1, 2, 3)
    """Which stage outputs enter the pyramid, finest first."""
    pyramid_channels: int = 256
    pyramid_downsamples: int = 2
    prediction_levels: tuple[int, ...] = (0, 1, 2, 3, 4)
    head_convolutions: int = 1
    anchors: AnchorConfig = AnchorConfig()
    prototypes: PrototypeConfig = PrototypeConfig()
    mean: tuple[float, float, float] = (123.68, 116.78, 103.94)
    """RGB, 0..255, subtracted first."""
    std: tuple[float, float, float] = (58.40, 57.12, 57.38)
    """RGB, 0..255, divided by."""
    matching: MatchingConfig = MatchingConfig()
    losses: LossConfig = LossConfig()
    decoding: DecodingConfig = DecodingConfig()
    freeze_batch_norm: bool = False
    """Keep batch normalisation at its stored statistics in training (batches under 6 images)."""

    @property
    def anchors_per_cell(self) -> int:
        return len(self.anchors.scales[0]) * len(self.anchors.ratios)

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every pyramid level; each halving rounds up."""
        strides = self.backbone.stage_strides
        sizes = [_halved(self.input_size, strides[stage]) for stage in self.backbone_stages]
        for _ in range(self.pyramid_downsamples):
            sizes.append(_halved(sizes[-1], 2))
        return tuple(sizes)

    @property
    def prior_count(self) -> int:
        sizes = [self.level_sizes[level] for level in self.prediction_levels]
        return sum(rows * columns for rows, columns in sizes) * self.anchors_per_cell

    @property
    def prototype_size(self) -> tuple[int, int]:
        """(height, width) of the prototypes."""
        height, width = self.level_sizes[self.prototypes.level]
        return 2 * height, 2 * width


def _halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    while times > 1:
        size = (size[0] + 1) // 2, (size[1] + 1) // 2
        times //= 2
    return size


R50 = YolactConfig()

R101 = YolactConfig(backbone=ResNetConfig(depths=(3, 4, 23, 3)))

DARKNET53 = YolactConfig(
    backbone=DarkNetConfig(), backbone_stages=(2, 3, 4), mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)
)

TINY = YolactConfig(
    input_size=(192, 192),
    class_count=6,
    backbone=ResNetConfig(depths=(2, 3, 3, 2), widths=(16, 32, 64, 80), expansion=2, stem_width=16),
    backbone_stages=(0, 1, 2, 3),
    pyramid_channels=48,
    pyramid_downsamples=0,
    prediction_levels=(1, 2, 3),
    anchors=AnchorConfig(scales=((15, 23), (34, 50), (72, 104)), square=False),
    prototypes=PrototypeConfig(before=(48,), after=(24,), count=16),
    losses=LossConfig(mask_positives_limit=48),
)
"""A toy of the same make: prototypes from the stride-4 level at stride 2, priors on strides 8 to 32."""
