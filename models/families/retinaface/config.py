"""What distinguishes one RetinaFace from another: sizes, thresholds and conventions, as frozen structs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.models.families.config import Config, Positive, Rounds, Threshold, TopCount
from edgewise.models.layers.image_input import ImageInput
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.runtime.contract.parts import Fraction, NonNegative, PositiveInt
from edgewise.runtime.contract.preprocessing import ColourOrder


class MobileNetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="mobilenet", kw_only=True):
    """MobileNet v1 in three stages of strides 8, 16 and 32."""

    stem_width: PositiveInt = 8
    widths: tuple[tuple[PositiveInt, ...], tuple[PositiveInt, ...], tuple[PositiveInt, ...]] = (
        (16, 32, 32, 64, 64),
        (128,) * 6,
        (256,) * 2,
    )
    """Channels behind each depthwise block. The second and the fourth block of the first stage halve the
    picture as the stem does, and the first block of each other stage."""

    @property
    def level_channels(self) -> tuple[int, ...]:
        return tuple(stage[-1] for stage in self.widths)


class MatchingConfig(Config, frozen=True):
    positive_iou: Fraction = 0.35
    forced_iou: Fraction = 0.2
    """A face whose best prior overlaps it by this much has that prior, whatever else it overlaps."""
    crowd_coverage: Fraction = 0.7
    """Priors that lie in a crowd by more than this are not background. Published data has no crowds."""


class LossConfig(Config, frozen=True):
    box_weight: NonNegative = 2.0
    negatives: Positive = 7.0
    """Background priors, the hardest ones, for each that has a face."""


class DecodingConfig(Config, frozen=True):
    score_threshold: Fraction = 0.02
    """A prior takes part when its score is above."""
    candidates: TopCount = 1500
    """Best priors that enter the suppression. Published is 5000; the graph says whether that could have made
    a difference."""
    iou_threshold: Threshold = 0.4
    rounds: Rounds = 24
    """Rounds of the suppression; a longer chain of suppressions gives settled = 0."""
    slots: TopCount = 750


class RetinafaceConfig(Config, frozen=True):
    """One RetinaFace. The defaults are the published mobilenet0.25."""

    input_size: tuple[PositiveInt, PositiveInt] = (640, 640)
    """Height, width of the canvas; multiples of 32."""
    point_count: PositiveInt = 5
    backbone: MobileNetConfig | ResNetConfig = MobileNetConfig()
    negative_slope: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    """Of the leaky activations; 0 is plain ReLU. Nothing in a file of weights tells it."""
    pyramid_channels: Annotated[int, Meta(ge=4, multiple_of=4)] = 64
    prior_sizes: tuple[tuple[Positive, ...], ...] = ((16, 32), (64, 128), (256, 512))
    """Sides of the square priors of each level, input pixels. Nothing in a file of weights tells them."""
    mean: tuple[float, float, float] = (104.0, 117.0, 123.0)
    """BGR, subtracted from the bytes."""
    matching: MatchingConfig = MatchingConfig()
    losses: LossConfig = LossConfig()
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        if any(side % 32 for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of 32")
        lengths = {len(sizes) for sizes in self.prior_sizes}
        if len(self.prior_sizes) != len(STRIDES) or len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"prior_sizes needs {len(STRIDES)} tuples of one length")

    def with_more_rounds(self) -> RetinafaceConfig:
        """The same with twice the rounds of the suppression, and half as many candidates again in it."""
        decoding = self.decoding
        more = msgspec.structs.replace(
            decoding,
            rounds=2 * decoding.rounds,
            candidates=min(3 * decoding.candidates // 2, 3840),
        )
        return msgspec.structs.replace(self, decoding=more)

    @property
    def image_input(self) -> ImageInput:
        """What the backbone reads of a frame."""
        return ImageInput(ColourOrder.BGR, mean=self.mean)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Of the backbone's three levels."""
        if isinstance(self.backbone, ResNetConfig):
            return self.backbone.stage_channels[1:]
        return self.backbone.level_channels

    @property
    def priors_per_cell(self) -> int:
        return len(self.prior_sizes[0])

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the levels."""
        height, width = self.input_size
        return tuple((height // stride, width // stride) for stride in STRIDES)

    @property
    def prior_count(self) -> int:
        return sum(rows * columns for rows, columns in self.level_sizes) * self.priors_per_cell


STRIDES = (8, 16, 32)

MNET025 = RetinafaceConfig()

MNET025_RELU = RetinafaceConfig(negative_slope=0.0, prior_sizes=((10, 20), (32, 64), (128, 256)))
"""Another repository's network of the same keys and shapes."""

R50 = RetinafaceConfig(
    input_size=(832, 832), backbone=ResNetConfig(), negative_slope=0.0, pyramid_channels=256
)
"""Trained at 840 pixels; the canvas is the multiple of 32 below."""

TINY = RetinafaceConfig(
    input_size=(256, 256),
    pyramid_channels=48,
    prior_sizes=((14, 22), (34, 54), (84, 130)),
    decoding=DecodingConfig(candidates=300, slots=60),
)
"""Faces of 16 to 128 pixels in scenes of 256x256."""

MICRO = RetinafaceConfig(
    input_size=(64, 96),
    backbone=MobileNetConfig(stem_width=4, widths=((4, 8, 8, 8, 8), (12, 12), (16,))),
    pyramid_channels=16,
    prior_sizes=((8, 12), (16, 24), (24, 32)),
    matching=MatchingConfig(positive_iou=0.2),
    decoding=DecodingConfig(candidates=100, slots=20),
)
"""The smallest that has every part: for tests."""
