"""What distinguishes one YOLACT from another: all sizes, thresholds and loss weights, as frozen structs."""

from __future__ import annotations

import enum

import msgspec

from edgewise.models.families.config import Config, Index, Positive, Rounds, Threshold, TopCount
from edgewise.models.layers.darknet import DarkNetConfig
from edgewise.models.layers.image_input import ImageInput
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.runtime.contract.parts import Fraction, NonNegative, PositiveInt
from edgewise.runtime.contract.preprocessing import ColourOrder


class AnchorConfig(Config, frozen=True):
    """Priors of every cell: for each scale, for each ratio w/h, of the level."""

    scales: tuple[tuple[Positive, ...], ...] = ((24,), (48,), (96,), (192,), (384,))
    """Network pixels, one tuple a prediction level, all of one length."""
    ratios: tuple[Positive, ...] = (1.0, 0.5, 2.0)
    square: bool = True
    """The published COCO models take h = w = scale * sqrt(ratio), a slip that is now part of them."""


class PrototypeConfig(Config, frozen=True):
    """3x3 convolutions before and after one bilinear doubling, then a 1x1 to `count` prototypes."""

    level: Index = 0
    """Which pyramid level feeds it."""
    before: tuple[PositiveInt, ...] = (256, 256, 256)
    after: tuple[PositiveInt, ...] = (256,)
    count: PositiveInt = 32


class MatchingConfig(Config, frozen=True):
    positive_iou: Fraction = 0.5
    negative_iou: Fraction = 0.4
    crowd_coverage: Fraction = 0.7


class LossConfig(Config, frozen=True):
    box_weight: NonNegative = 1.5
    class_weight: NonNegative = 1.0
    mask_weight: NonNegative = 6.125
    semantic_weight: NonNegative = 1.0
    mask_iou_weight: NonNegative = 25.0
    mask_iou_area: NonNegative = 25.0
    """Masks of objects of no more prototype pixels are not judged."""
    negatives_per_positive: PositiveInt = 3
    mask_positives_limit: PositiveInt = 100


class Suppression(enum.Enum):
    FAST = "fast"
    """Per class, one round: a box falls to any better one, even to one that has fallen itself."""
    CROSS_CLASS_FAST = "cross-class-fast"
    """The same over all classes at once, each prior with its best class."""
    GREEDY = "greedy"
    """Per class, exact sequential suppression of boxes as they are."""
    TRADITIONAL = "traditional"
    """The same with boxes one pixel wider and taller, as the published code's option of this name counts them
    (there a pair falls at exactly the threshold too)."""


class DecodingConfig(Config, frozen=True):
    suppression: Suppression = Suppression.FAST
    score_threshold: Fraction = 0.05
    """A prior takes part when its best foreground probability is above."""
    iou_threshold: Threshold = 0.5
    candidates: TopCount = 200
    """Best-scored priors per class (over all classes: cross-class) that enter the suppression."""
    slots: TopCount = 100
    greedy_candidates: TopCount = 1000
    """Greedy and traditional: best (prior, class) pairs that enter the suppression."""
    greedy_rounds: Rounds = 24
    """Rounds of the fixed-point iteration; a longer chain of suppression gives settled = 0."""

    @property
    def sequential(self) -> bool:
        """Whether the suppression takes rounds, and says whether they were enough."""
        return self.suppression in (Suppression.GREEDY, Suppression.TRADITIONAL)


class YolactConfig(Config, frozen=True):
    """One YOLACT. The defaults are the published ResNet-50 at 550x550 on COCO."""

    input_size: tuple[PositiveInt, PositiveInt] = (550, 550)
    """Height, width."""
    class_count: PositiveInt = 80
    backbone: ResNetConfig | DarkNetConfig = msgspec.field(default_factory=ResNetConfig)
    backbone_stages: tuple[Index, ...] = (1, 2, 3)
    """Which stage outputs enter the pyramid, finest first."""
    pyramid_channels: PositiveInt = 256
    pyramid_downsamples: Index = 2
    prediction_levels: tuple[Index, ...] = (0, 1, 2, 3, 4)
    head_convolutions: Index = 1
    anchors: AnchorConfig = AnchorConfig()
    prototypes: PrototypeConfig = PrototypeConfig()
    mask_iou: tuple[PositiveInt, ...] = ()
    """Channels of the network that rescores masks, a 3x3 convolution of stride 2 each; empty: scores stay."""
    mean: tuple[float, float, float] = (123.68, 116.78, 103.94)
    """RGB, 0..255, subtracted first."""
    std: tuple[Positive, Positive, Positive] = (58.40, 57.12, 57.38)
    """RGB, 0..255, divided by."""
    matching: MatchingConfig = MatchingConfig()
    losses: LossConfig = LossConfig()
    decoding: DecodingConfig = DecodingConfig()
    freeze_batch_norm: bool = False
    """Keep batch normalisation at its stored statistics in training (batches under 6 images)."""

    def __post_init__(self) -> None:
        levels = len(self.backbone_stages) + self.pyramid_downsamples
        lengths = {len(scales) for scales in self.anchors.scales}
        if not self.backbone_stages or max(self.backbone_stages) >= len(self.backbone.stage_channels):
            raise ValueError(f"backbone_stages {self.backbone_stages} names a stage that is not there")
        if not self.prediction_levels or max(*self.prediction_levels, self.prototypes.level) >= levels:
            raise ValueError(f"prediction_levels and prototypes.level must be below {levels}")
        if len(self.anchors.scales) != len(self.prediction_levels) or len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"anchors.scales needs {len(self.prediction_levels)} tuples of one length")
        if not self.anchors.ratios:
            raise ValueError("anchors.ratios is empty")
        if min(self.prototype_size) < 2 ** (len(self.mask_iou) + 1) - 1:
            raise ValueError(f"mask_iou: {len(self.mask_iou)} halvings leave nothing of the prototypes")

    def with_more_rounds(self) -> YolactConfig:
        """The same with twice the rounds where the suppression is sequential; the others take none."""
        if not self.decoding.sequential:
            return self
        more = msgspec.structs.replace(self.decoding, greedy_rounds=2 * self.decoding.greedy_rounds)
        return msgspec.structs.replace(self, decoding=more)

    @property
    def image_input(self) -> ImageInput:
        """What the backbone reads of a frame."""
        return ImageInput(ColourOrder.RGB, mean=self.mean, std=self.std)

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

_PLUS = msgspec.structs.replace(
    R50,
    anchors=AnchorConfig(
        scales=tuple(tuple(base * 2 ** (third / 3) for third in range(3)) for base in (24, 48, 96, 192, 384)),
        square=False,
    ),
    mask_iou=(8, 16, 32, 64, 128),
)

PLUS_R50 = msgspec.structs.replace(_PLUS, backbone=ResNetConfig(deformable_every=(0, 1, 1, 1)))

PLUS_R101 = msgspec.structs.replace(
    _PLUS, backbone=ResNetConfig(depths=(3, 4, 23, 3), deformable_every=(0, 3, 3, 3))
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

PLUS_TINY = msgspec.structs.replace(
    TINY,
    backbone=msgspec.structs.replace(TINY.backbone, deformable_every=(0, 3, 3, 3)),
    mask_iou=(8, 16, 32, 48, 64),
)
"""The other toy with three deformable blocks and a judge of masks."""

MICRO = msgspec.structs.replace(
    TINY,
    input_size=(64, 96),
    class_count=3,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8), expansion=2, stem_width=4),
    pyramid_channels=8,
    anchors=AnchorConfig(scales=((8, 12), (16, 24), (32, 48)), square=False),
    prototypes=PrototypeConfig(before=(8,), after=(8,), count=5),
)
"""The smallest that has every part: for tests."""

PLUS_MICRO = msgspec.structs.replace(
    MICRO,
    backbone=msgspec.structs.replace(MICRO.backbone, deformable_every=(0, 1, 0, 1)),
    losses=msgspec.structs.replace(MICRO.losses, mask_iou_area=4.0),
    mask_iou=(4, 6),
)
"""The same of YOLACT++."""
