"""What distinguishes one RetinaNet from another: all sizes, thresholds and conventions, as frozen structs."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.families.config import Config, Index, Positive, Rounds, Threshold, TopCount
from edgewise.models.layers.image_input import ImageInput
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.runtime.contract.parts import Fraction, NonNegative, PositiveInt
from edgewise.runtime.contract.preprocessing import ColourOrder


class LogitRows(enum.Enum):
    """Which row of the class logits is whose."""

    CATEGORY_IDS = "category-ids"
    """Published weights for COCO: the row is the category id, 91 rows of which 11 are nobody's. With another
    number of classes than COCO's 80 things as below."""
    BEHIND_BACKGROUND = "behind-background"
    """Class c has row 1 + c; row 0 is never learnt as anything (torchvision's own classes)."""


class CoarseSource(enum.Enum):
    """What the first of the two coarse levels is made from."""

    PYRAMID = "pyramid"
    """The coarsest output of the pyramid (v1)."""
    BACKBONE = "backbone"
    """The last stage of the backbone (v2)."""


class BoxLoss(enum.Enum):
    L1 = "l1"
    """Of the deltas against the anchors (v1)."""
    GIOU = "giou"
    """1 - generalised IoU of the decoded boxes (v2)."""


class MatchingConfig(Config, frozen=True):
    positive_iou: Fraction = 0.5
    negative_iou: Fraction = 0.4
    crowd_coverage: Fraction = 0.7


class LossConfig(Config, frozen=True):
    box: BoxLoss = BoxLoss.L1
    focal_alpha: Fraction = 0.25
    """Weight of what is to be found; the rest weighs 1 - alpha."""
    focal_gamma: NonNegative = 2.0


class DecodingConfig(Config, frozen=True):
    score_threshold: Fraction = 0.05
    """A pair of anchor and class takes part when its score is above."""
    candidates: TopCount = 1000
    """Best pairs of each level."""
    suppressed: TopCount = 2000
    """Best pairs of all levels that enter the suppression. Published is all of them; the graph says whether
    that could have made a difference."""
    iou_threshold: Threshold = 0.5
    rounds: Rounds = 24
    """Rounds of the suppression; a longer chain of suppressions gives settled = 0."""
    slots: TopCount = 300


class RetinanetConfig(Config, frozen=True):
    """One RetinaNet. The defaults are torchvision's published v1, ResNet-50 on COCO."""

    input_size: tuple[PositiveInt, PositiveInt] = (800, 1344)
    """Height, width of the canvas; multiples of 32."""
    shortest: PositiveInt = 800
    """Frames are scaled to this shorter side,"""
    longest: PositiveInt = 1333
    """unless the longer one would exceed this."""
    class_count: PositiveInt = 80
    logit_rows: LogitRows = LogitRows.CATEGORY_IDS
    backbone: ResNetConfig = ResNetConfig()
    batch_norm_epsilon: NonNegative = 0.0
    """torchvision sets it to 0 when it loads its v1 weights."""
    freeze_batch_norm: bool = True
    """Keep batch normalisation at its stored statistics in training."""
    frozen_stages: Annotated[int, Meta(ge=0, le=4)] = 1
    """Leading stages that are not trained, with the stem; 0 trains everything."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """RGB, of pixels / 255, subtracted first."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """RGB, divided by."""
    pyramid_channels: PositiveInt = 256
    coarse_source: CoarseSource = CoarseSource.PYRAMID
    head_convolutions: Index = 4
    """Of each tower."""
    head_groups: Index = 0
    """Of the group normalisation behind each of them; 0: none, and the convolutions have a bias."""
    anchor_sizes: tuple[tuple[Positive, ...], ...] = (
        (32, 40, 50),
        (64, 80, 101),
        (128, 161, 203),
        (256, 322, 406),
        (512, 645, 812),
    )
    """Square roots of the anchors' areas, input pixels, of P3 to P7: x, x 2^(1/3) and x 2^(2/3), cut off."""
    anchor_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    matching: MatchingConfig = MatchingConfig()
    losses: LossConfig = LossConfig()
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        if any(side % 32 for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of 32")
        lengths = {len(sizes) for sizes in self.anchor_sizes}
        if len(self.anchor_sizes) != len(self.level_sizes) or len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"anchor_sizes needs {len(self.level_sizes)} tuples of one length")
        if not self.anchor_ratios:
            raise ValueError("anchor_ratios is empty")
        if self.head_groups and self.pyramid_channels % self.head_groups:
            raise ValueError(f"{self.pyramid_channels} channels are not {self.head_groups} equal groups")

    def with_more_rounds(self) -> RetinanetConfig:
        """The same with twice the rounds of the suppression, and half as many pairs again in it."""
        decoding = self.decoding
        most = min(decoding.candidates * len(self.anchor_sizes), 3840)
        more = msgspec.structs.replace(
            decoding,
            rounds=2 * decoding.rounds,
            suppressed=max(decoding.suppressed, min(3 * decoding.suppressed // 2, most)),
        )
        return msgspec.structs.replace(self, decoding=more)

    @property
    def image_input(self) -> ImageInput:
        """What the backbone reads of a frame."""
        return ImageInput(ColourOrder.RGB, scale=255.0, mean=self.mean, std=self.std)

    @property
    def anchors_per_cell(self) -> int:
        return len(self.anchor_sizes[0]) * len(self.anchor_ratios)

    @property
    def class_rows(self) -> tuple[int, ...]:
        """The row of every class among the logits."""
        if self.logit_rows is LogitRows.CATEGORY_IDS and self.class_count == len(COCO_THINGS):
            return tuple(label.id for label in COCO_THINGS)
        return tuple(range(1, 1 + self.class_count))

    @property
    def row_count(self) -> int:
        """Rows of the class logits, nobody's among them."""
        return 1 + max(self.class_rows)

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of P3 to P7; each halving rounds up."""
        height, width = self.input_size
        sizes = [(height // stride, width // stride) for stride in self.backbone.stage_strides[1:]]
        for _ in range(2):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        return tuple(sizes)

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """Input pixels from row to row and from column to column of each level, cut off to whole ones.

        A coarse level of a canvas that is no multiple of 128 has one more cell than that, closer together.
        """
        height, width = self.input_size
        return tuple((height // rows, width // columns) for rows, columns in self.level_sizes)

    @property
    def anchor_count(self) -> int:
        return sum(rows * columns for rows, columns in self.level_sizes) * self.anchors_per_cell


R50_V1 = RetinanetConfig()

R50_V2 = RetinanetConfig(
    batch_norm_epsilon=1e-5,
    freeze_batch_norm=False,
    frozen_stages=0,
    coarse_source=CoarseSource.BACKBONE,
    head_groups=32,
    losses=LossConfig(box=BoxLoss.GIOU),
)

TINY = RetinanetConfig(
    input_size=(192, 192),
    shortest=192,
    longest=192,
    class_count=6,
    logit_rows=LogitRows.BEHIND_BACKGROUND,
    backbone=ResNetConfig(depths=(2, 3, 3, 1), widths=(16, 32, 64, 80), expansion=2, stem_width=16),
    batch_norm_epsilon=1e-5,
    freeze_batch_norm=False,
    frozen_stages=0,
    pyramid_channels=40,
    head_convolutions=1,
    anchor_sizes=((16, 20, 25), (32, 40, 50), (64, 80, 101), (96, 120, 152), (152, 170, 192)),
    losses=LossConfig(box=BoxLoss.GIOU),
    decoding=DecodingConfig(candidates=100, suppressed=500, slots=100),
)
"""A toy of the same make for scenes of 192x192."""

MICRO = msgspec.structs.replace(
    TINY,
    input_size=(64, 96),
    shortest=64,
    longest=96,
    class_count=3,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8), expansion=2, stem_width=4),
    pyramid_channels=8,
    head_groups=2,
    anchor_sizes=((8, 10), (16, 20), (32, 40), (48, 60), (64, 80)),
    decoding=DecodingConfig(candidates=60, suppressed=150, slots=20),
)
"""The smallest that has every part: for tests."""
