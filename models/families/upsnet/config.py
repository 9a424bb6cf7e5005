"""What distinguishes one UPSNet from another: all sizes, thresholds and loss weights, as frozen structs."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.models.families.config import Config, Index, Positive, Rounds, Threshold, TopCount
from edgewise.models.layers.anchors import AnchorRule
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.fpn import grid_sizes, pyramid_strides
from edgewise.models.layers.image_input import ImageInput
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.models.layers.two_stage.box_stage import BoxDecoding, BoxStageConfig, ClearClass
from edgewise.models.layers.two_stage.class_rows import ClassRows
from edgewise.models.layers.two_stage.mask_stage import MaskStageConfig, MaskTargets
from edgewise.models.layers.two_stage.proposal_stage import Divisor, ProposalConfig, ProposalStageConfig
from edgewise.models.layers.two_stage.region_pooling import RegionPooling
from edgewise.models.layers.two_stage.sampling import AnchorSampling, RoiSampling
from edgewise.runtime.contract.parts import Fraction, NonNegative, PositiveInt
from edgewise.runtime.contract.preprocessing import ColourOrder

Decisive = Annotated[float, Meta(ge=0.5, le=1.0)]

SIZE_LIMIT = math.log(1000.0 / 16.0)
"""Largest dw or dh of a box regression: a box is at most 62.5 times as large as what it starts from."""


class AnchorConfig(Config, frozen=True):
    """Anchors in the legacy rounding of py-faster-rcnn: at every cell, for each ratio, for each scale."""

    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    scales: tuple[Positive, ...] = (8.0,)
    """Side of the square anchor in strides of its level."""


class SemanticConfig(Config, frozen=True):
    """3x3 deformable convolutions, the same for P2..P5, each followed by a ReLU."""

    channels: tuple[PositiveInt, ...] = (256, 128, 128)


class TrainingConfig(Config, frozen=True):
    """Matching, sampling and loss weights."""

    proposals: ProposalConfig = ProposalConfig(candidates=2000, kept=2000)
    anchors: AnchorSampling = AnchorSampling(border=0.0)
    regions: RoiSampling = RoiSampling()
    mask_positives_limit: PositiveInt = 128
    """Most regions of an image whose masks are trained."""
    objectness_weight: NonNegative = 1.0
    anchor_box_weight: NonNegative = 1.0
    class_weight: NonNegative = 1.0
    box_weight: NonNegative = 1.0
    mask_weight: NonNegative = 1.0
    semantic_weight: NonNegative = 0.2
    region_semantic_weight: NonNegative = 0.04
    """Of the semantic loss inside true boxes; 0 leaves it out."""
    panoptic_weight: NonNegative = 0.1
    kept_boxes: Fraction = 0.7
    """Share of the true boxes that the panoptic loss sees; pixels of the others are unknown."""


class DecodingConfig(Config, frozen=True):
    """The inference side."""

    proposals: ProposalConfig = ProposalConfig(rounds=24)
    score_threshold: Decisive = 0.6
    """A region takes part when a class has more than this probability; at least one half, so that no region
    can have two."""
    iou_threshold: Threshold = 0.5
    rounds: Rounds = 24
    """Rounds of the class-agnostic suppression."""
    slots: TopCount = 100
    pruning_overlap: Fraction = 0.3
    """A mask falls when more than this share of it lies under better masks of its class."""
    pruning_rounds: Rounds = 8
    """Rounds of the pruning over pairs of masks; a quarter as many, but two at least, over all pixels."""
    panoptic_stride: PositiveInt = 4
    """Input pixels a cell of the panoptic map."""
    stuff_area_limit: Index = 4096
    """Stuff segments with fewer source pixels become void."""


class UpsnetConfig(Config, frozen=True):
    """One UPSNet. The defaults are the published ResNet-50 on COCO, on a fixed canvas of 512x1024."""

    input_size: tuple[PositiveInt, PositiveInt] = (512, 1024)
    """Height, width; multiples of 32 (of the coarsest stride)."""
    thing_count: PositiveInt = 80
    stuff_count: PositiveInt = 53
    backbone: ResNetConfig = ResNetConfig(stride_on_first=True)
    freeze_batch_norm: bool = True
    """Keep the backbone's batch normalisation at its stored statistics in training."""
    frozen_stages: Annotated[int, Meta(ge=0, le=4)] = 1
    """Leading stages that are not trained, with the stem; 0 trains everything."""
    colour: ColourOrder = ColourOrder.BGR
    """The order in which the backbone's weights read the channels."""
    mean: tuple[float, float, float] = (102.9801, 115.9465, 122.7717)
    """BGR, 0..255, subtracted first."""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """BGR, 0..255, divided by."""
    pyramid_channels: PositiveInt = 256
    pyramid_global: bool = True
    """Add a projection of the globally averaged last stage to the coarsest lateral."""
    pyramid_extra: bool = True
    """P6, every other cell of P5, for the proposal network only."""
    anchors: AnchorConfig = AnchorConfig()
    canonical_size: Positive = 224.0
    """Regions with this square root of area are read from P4, half of it from P3, and so on."""
    region_samples_per_bin: PositiveInt = 2
    box_bins: PositiveInt = 7
    box_channels: PositiveInt = 1024
    mask_bins: PositiveInt = 14
    mask_convolutions: PositiveInt = 4
    mask_channels: PositiveInt = 256
    semantic: SemanticConfig = SemanticConfig()
    training: TrainingConfig = TrainingConfig()
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        coarsest = self.backbone.stage_strides[-1]
        if any(side % coarsest for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of {coarsest}")
        if not self.anchors.ratios or not self.anchors.scales or not self.semantic.channels:
            raise ValueError("anchors.ratios, anchors.scales and semantic.channels may not be empty")
        if any(side % self.decoding.panoptic_stride for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of decoding.panoptic_stride")

    def with_more_rounds(self) -> UpsnetConfig:
        """The same with twice the rounds of every suppression and of the pruning."""
        decoding = self.decoding
        proposals = msgspec.structs.replace(decoding.proposals, rounds=2 * decoding.proposals.rounds)
        more = msgspec.structs.replace(
            decoding,
            proposals=proposals,
            rounds=2 * decoding.rounds,
            pruning_rounds=2 * decoding.pruning_rounds,
        )
        return msgspec.structs.replace(self, decoding=more)

    @property
    def image_input(self) -> ImageInput:
        """What the backbone reads of a frame."""
        if self.colour is ColourOrder.BGR:
            return ImageInput(self.colour, mean=self.mean, std=self.std)
        return ImageInput(self.colour, mean=self.mean[::-1], std=self.std[::-1])

    @property
    def class_count(self) -> int:
        """Things and stuff."""
        return self.thing_count + self.stuff_count

    @property
    def last_segment(self) -> int:
        """The largest value of the panoptic map: unknown."""
        return self.stuff_count + self.decoding.slots

    @property
    def anchors_per_cell(self) -> int:
        return len(self.anchors.ratios) * len(self.anchors.scales)

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Strides of the proposal network's levels, finest first."""
        return pyramid_strides(self.backbone.stage_strides, extra=self.pyramid_extra)

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the proposal network's levels."""
        return grid_sizes(self.input_size, self.level_strides)

    @property
    def panoptic_size(self) -> tuple[int, int]:
        """(height, width) of the panoptic map."""
        stride = self.decoding.panoptic_stride
        return self.input_size[0] // stride, self.input_size[1] // stride

    # The stages in UPSNet's published conventions: inclusive corners, the background's row first.

    @property
    def proposal_stage(self) -> ProposalStageConfig:
        return ProposalStageConfig(
            inputs=self.pyramid_channels,
            convolutions=1,
            strides=self.level_strides,
            grids=self.level_sizes,
            anchor_sizes=tuple(
                tuple(scale * stride for scale in self.anchors.scales) for stride in self.level_strides
            ),
            anchor_ratios=self.anchors.ratios,
            anchor_rule=AnchorRule.DETECTRON,
            coding=BoxCoding(weights=(1.0, 1.0, 1.0, 1.0), plus_one=True, size_limit=SIZE_LIMIT),
            extent=self.input_size,
            sampling=self.training.anchors,
            beta=1.0 / 9.0,
            objectness_divisor=Divisor.WHOLE_SAMPLE,
            box_divisor=Divisor.SAMPLED,
        )

    @property
    def box_stage(self) -> BoxStageConfig:
        decoding = self.decoding
        return BoxStageConfig(
            inputs=self.pyramid_channels,
            pooling=self._pooling,
            bins=self.box_bins,
            convolutions=0,
            channels=self.box_channels,
            layers=2,
            logits=self._class_rows,
            background=0,
            regression=self._class_rows,
            coding=BoxCoding(weights=(10.0, 10.0, 5.0, 5.0), plus_one=True, size_limit=SIZE_LIMIT),
            extent=self.input_size,
            beta=1.0,
            decoding=BoxDecoding(
                choice=ClearClass(score_threshold=decoding.score_threshold),
                smallest=0.0,
                iou_threshold=decoding.iou_threshold,
                rounds=decoding.rounds,
                slots=decoding.slots,
            ),
        )

    @property
    def mask_stage(self) -> MaskStageConfig:
        return MaskStageConfig(
            inputs=self.pyramid_channels,
            pooling=self._pooling,
            bins=self.mask_bins,
            channels=self.mask_channels,
            convolutions=self.mask_convolutions,
            norm=False,
            rows=self._class_rows,
            targets=MaskTargets(plus_one=True, half_pixel=True, samples_per_bin=2, threshold=0.5),
        )

    @property
    def _class_rows(self) -> ClassRows:
        return ClassRows(classes=self.thing_count, count=1 + self.thing_count, first=1)

    @property
    def _pooling(self) -> RegionPooling:
        return RegionPooling(
            strides=self.backbone.stage_strides,
            canonical_level=2,
            canonical_size=self.canonical_size,
            epsilon=1e-6,
            epsilon_inside=True,
            plus_one=True,
            half_pixel=False,
            samples_per_bin=self.region_samples_per_bin,
        )


R50_COCO = UpsnetConfig()

R50_CITYSCAPES = UpsnetConfig(
    thing_count=8,
    stuff_count=11,
    pyramid_global=False,
    semantic=SemanticConfig(channels=(128, 128)),
    training=TrainingConfig(semantic_weight=1.0, region_semantic_weight=0.0, panoptic_weight=0.5),
    decoding=DecodingConfig(stuff_area_limit=2048),
)

TINY = UpsnetConfig(
    input_size=(192, 192),
    thing_count=6,
    stuff_count=6,
    backbone=ResNetConfig(depths=(2, 3, 3, 2), widths=(16, 32, 64, 80), expansion=2, stem_width=16),
    freeze_batch_norm=False,
    frozen_stages=0,
    colour=ColourOrder.RGB,
    mean=(103.94, 116.78, 123.68),
    std=(57.38, 57.12, 58.40),
    pyramid_channels=48,
    pyramid_global=False,
    pyramid_extra=False,
    anchors=AnchorConfig(scales=(4.0, 5.7)),
    canonical_size=96.0,
    box_bins=5,
    box_channels=80,
    mask_bins=14,
    mask_convolutions=2,
    mask_channels=48,
    semantic=SemanticConfig(channels=(32, 32)),
    training=TrainingConfig(
        proposals=ProposalConfig(candidates=256, kept=256),
        anchors=AnchorSampling(count=128),
        regions=RoiSampling(count=64),
        mask_positives_limit=8,
        semantic_weight=1.0,
        region_semantic_weight=0.0,
        panoptic_weight=0.5,
    ),
    decoding=DecodingConfig(
        proposals=ProposalConfig(candidates=256, kept=128, rounds=24),
        slots=32,
        panoptic_stride=1,
        stuff_area_limit=100,
    ),
)
"""A toy of the same make: the backbone of yolact-tiny, anchors of 16 to 182 pixels on strides 4 to 32."""

MICRO = msgspec.structs.replace(
    TINY,
    input_size=(64, 96),
    thing_count=3,
    stuff_count=2,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8), expansion=2, stem_width=4),
    pyramid_channels=8,
    pyramid_global=True,
    pyramid_extra=True,
    box_channels=16,
    mask_channels=8,
    canonical_size=64.0,
    semantic=SemanticConfig(channels=(8, 6)),
    training=msgspec.structs.replace(
        TINY.training,
        proposals=ProposalConfig(candidates=40, kept=40),
        anchors=AnchorSampling(count=32),
        regions=RoiSampling(count=24),
        region_semantic_weight=0.1,
    ),
    decoding=msgspec.structs.replace(
        TINY.decoding,
        proposals=ProposalConfig(candidates=40, kept=60, rounds=2),
        slots=24,
        rounds=2,
        pruning_rounds=2,
    ),
)
"""The smallest that has every part: for tests."""
