"""What distinguishes one R-CNN from another: all sizes, thresholds and conventions, as frozen structs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.families.config import Config, Index, Positive, Rounds, Threshold, TopCount
from edgewise.models.layers.anchors import AnchorRule
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.fpn import grid_sizes, pyramid_strides
from edgewise.models.layers.image_input import ImageInput
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.models.layers.two_stage.box_stage import BoxDecoding, BoxStageConfig, EveryClass
from edgewise.models.layers.two_stage.class_rows import ClassRows
from edgewise.models.layers.two_stage.keypoint_stage import KeypointStageConfig
from edgewise.models.layers.two_stage.mask_stage import MaskStageConfig, MaskTargets
from edgewise.models.layers.two_stage.proposal_stage import Divisor, ProposalConfig, ProposalStageConfig
from edgewise.models.layers.two_stage.region_pooling import RegionPooling
from edgewise.models.layers.two_stage.sampling import AnchorSampling, RoiSampling
from edgewise.runtime.contract.parts import Fraction, NonNegative, PositiveInt
from edgewise.runtime.contract.postprocessing import MaskRule, PointScore
from edgewise.runtime.contract.preprocessing import ColourOrder, SideRounding


class InputConfig(Config, frozen=True):
    """(pixel / scale - mean) / std, channel by channel, in the network's colour order."""

    colour: ColourOrder = ColourOrder.RGB
    scale: Positive = 255.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)


class Conventions(Config, frozen=True):
    """Where published code bases differ; the defaults are torchvision's."""

    background_first: bool = True
    """The background has row 0 of the class logits, and rows of boxes and masks that nothing reads. Otherwise
    it has the last row of the logits and no other (detectron2)."""
    category_rows: bool = True
    """Published for COCO: a class's row is its category id, 91 rows of which 11 are nobody's. With another
    number of classes than COCO's 80 things the rows follow one another."""
    rounded_anchors: bool = True
    """Corners of anchors are rounded, half to even."""
    half_pixel: bool = False
    """RoIAlign reads continuous coordinates ("aligned"); otherwise those of pixel centres, and a region is at
    least one cell wide and high."""
    samples_per_bin: PositiveInt = 2
    """Of RoIAlign, along each axis. detectron2 takes as many as a bin has cells, rounded up, which has no
    fixed shape."""
    level_epsilon: NonNegative = 1e-6
    """What the choice of a region's level adds against rounding,"""
    level_epsilon_inside: bool = False
    """to the argument of the logarithm, or to its value."""
    smallest_box: NonNegative = 1e-2
    """Detections with a side below this many input pixels are dropped."""


class MaskConfig(Config, frozen=True):
    """The mask branch, and how its maps become pixels."""

    bins: PositiveInt = 14
    convolutions: PositiveInt = 4
    channels: PositiveInt = 256
    target_threshold: Fraction | None = None
    """A cell of at least this share of an object is learnt as 1, any other as 0; None: the share itself."""
    target_half_pixel: bool = False
    """RoIAlign of the object's mask reads continuous coordinates."""
    rule: MaskRule = MaskRule.PASTE_PADDED
    positives_limit: PositiveInt = 512
    """Most regions of an image whose masks are trained."""


class KeypointConfig(Config, frozen=True):
    """The keypoint branch, and how its maps become points."""

    bins: PositiveInt = 14
    convolutions: PositiveInt = 8
    channels: PositiveInt = 512
    point_score: PointScore = PointScore.LOGIT
    point_threshold: Fraction = 0.5
    """Points that score less are shown faintly."""
    pixel_numbers: bool = True
    """The published weights learnt points as numbers of pixels, which begin half a pixel before its centre;
    otherwise as continuous coordinates, as training does here."""
    positives_limit: PositiveInt = 512
    """Most regions of an image whose points are trained."""


class TrainingConfig(Config, frozen=True):
    """Matching, sampling and losses."""

    proposals: ProposalConfig = ProposalConfig(candidates=2000, kept=2000, smallest=1e-3)
    anchors: AnchorSampling = AnchorSampling()
    regions: RoiSampling = RoiSampling()
    anchor_beta: NonNegative = 1.0 / 9.0
    """Where the smooth L1 loss of proposals turns linear; 0: L1."""
    box_beta: NonNegative = 1.0 / 9.0
    """The same of detections."""
    divisor: Divisor = Divisor.SAMPLED
    """Of the proposal network's two terms."""


class DecodingConfig(Config, frozen=True):
    """The inference side."""

    proposals: ProposalConfig = ProposalConfig(rounds=24, smallest=1e-3)
    score_threshold: Fraction = 0.05
    """A region is detected as every class with more than this probability."""
    candidates: TopCount = 1000
    """Best pairs of region and class that enter the suppression. Published is all of them; the graph says
    whether that could have made a difference."""
    iou_threshold: Threshold = 0.5
    rounds: Rounds = 24
    """Rounds of the suppression, class by class; a longer chain of suppressions gives settled = 0."""
    slots: TopCount = 100


class RcnnConfig(Config, frozen=True):
    """One R-CNN. The defaults are torchvision's published Mask R-CNN v1, ResNet-50 on COCO."""

    input_size: tuple[PositiveInt, PositiveInt] = (800, 1344)
    """Height, width of the canvas; multiples of 32."""
    shortest: PositiveInt = 800
    """Frames are scaled to this shorter side,"""
    longest: PositiveInt = 1333
    """unless the longer one would exceed this,"""
    rounding: SideRounding = SideRounding.DOWN
    """to whole pixels."""
    class_count: PositiveInt = 80
    image: InputConfig = InputConfig()
    conventions: Conventions = Conventions()
    backbone: ResNetConfig = ResNetConfig()
    batch_norm_epsilon: NonNegative = 0.0
    """Of the backbone. torchvision sets it to 0 when it loads its v1 weights."""
    freeze_batch_norm: bool = True
    """Keep all batch normalisation at its stored statistics in training."""
    frozen_stages: Annotated[int, Meta(ge=0, le=4)] = 1
    """Leading stages that are not trained, with the stem; 0 trains everything."""
    pyramid_channels: PositiveInt = 256
    pyramid_extra: bool = True
    """P6, every other cell of P5, for the proposal network only."""
    norm: bool = False
    """Batch normalisation, and no bias, in pyramid and mask branch (torchvision's v2)."""
    anchor_sizes: tuple[tuple[Positive, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    """Square roots of the anchors' areas, input pixels, of every level."""
    anchor_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    proposal_convolutions: PositiveInt = 1
    canonical_size: Positive = 224.0
    """Regions with this square root of area are read from P4, half of it from P3, and so on."""
    box_bins: PositiveInt = 7
    box_convolutions: Index = 0
    """With batch normalisation, before the hidden layers of the box head."""
    box_layers: Annotated[int, Meta(ge=1, le=2)] = 2
    box_channels: PositiveInt = 1024
    mask: MaskConfig | None = MaskConfig()
    """None: no masks."""
    keypoint_count: Index = 0
    """Points of a thing; 0: no keypoint branch."""
    keypoints: KeypointConfig = KeypointConfig()
    training: TrainingConfig = TrainingConfig()
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        coarsest = self.backbone.stage_strides[-1]
        if any(side % coarsest for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of {coarsest}")
        lengths = {len(sizes) for sizes in self.anchor_sizes}
        if len(self.anchor_sizes) != len(self.level_strides) or len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"anchor_sizes needs {len(self.level_strides)} tuples of one length")
        if not self.anchor_ratios:
            raise ValueError("anchor_ratios is empty")
        if self.decoding.candidates < self.decoding.slots:
            raise ValueError("decoding.candidates must be at least as many as decoding.slots")

    def with_more_rounds(self) -> RcnnConfig:
        """The same with twice the rounds of every suppression, and half as many pairs again in the last."""
        decoding = self.decoding
        proposals = msgspec.structs.replace(decoding.proposals, rounds=2 * decoding.proposals.rounds)
        more = msgspec.structs.replace(
            decoding,
            proposals=proposals,
            rounds=2 * decoding.rounds,
            candidates=max(decoding.candidates, min(3 * decoding.candidates // 2, 3840)),
        )
        return msgspec.structs.replace(self, decoding=more)

    @property
    def image_input(self) -> ImageInput:
        """What the backbone reads of a frame."""
        return ImageInput(self.image.colour, self.image.scale, self.image.mean, self.image.std)

    @property
    def anchors_per_cell(self) -> int:
        return len(self.anchor_ratios) * len(self.anchor_sizes[0])

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Strides of the proposal network's levels, finest first."""
        return pyramid_strides(self.backbone.stage_strides, extra=self.pyramid_extra)

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the proposal network's levels."""
        return grid_sizes(self.input_size, self.level_strides)

    # The stages.

    @property
    def proposal_stage(self) -> ProposalStageConfig:
        rounded = self.conventions.rounded_anchors
        return ProposalStageConfig(
            inputs=self.pyramid_channels,
            convolutions=self.proposal_convolutions,
            strides=self.level_strides,
            grids=self.level_sizes,
            anchor_sizes=self.anchor_sizes,
            anchor_ratios=self.anchor_ratios,
            anchor_rule=AnchorRule.TORCHVISION if rounded else AnchorRule.DETECTRON2,
            coding=BoxCoding(weights=(1.0, 1.0, 1.0, 1.0)),
            extent=self.input_size,
            sampling=self.training.anchors,
            beta=self.training.anchor_beta,
            objectness_divisor=self.training.divisor,
            box_divisor=self.training.divisor,
        )

    @property
    def box_stage(self) -> BoxStageConfig:
        decoding = self.decoding
        first = self.conventions.background_first
        return BoxStageConfig(
            inputs=self.pyramid_channels,
            pooling=self._pooling,
            bins=self.box_bins,
            convolutions=self.box_convolutions,
            channels=self.box_channels,
            layers=self.box_layers,
            logits=self._rows(background=True),
            background=0 if first else self.class_count,
            regression=self._rows(background=first),
            coding=BoxCoding(weights=(10.0, 10.0, 5.0, 5.0)),
            extent=self.input_size,
            beta=self.training.box_beta,
            decoding=BoxDecoding(
                choice=EveryClass(score_threshold=decoding.score_threshold, candidates=decoding.candidates),
                smallest=self.conventions.smallest_box,
                iou_threshold=decoding.iou_threshold,
                rounds=decoding.rounds,
                slots=decoding.slots,
            ),
        )

    def mask_stage(self, mask: MaskConfig) -> MaskStageConfig:
        """Of the mask branch `mask`."""
        return MaskStageConfig(
            inputs=self.pyramid_channels,
            pooling=self._pooling,
            bins=mask.bins,
            channels=mask.channels,
            convolutions=mask.convolutions,
            norm=self.norm,
            rows=self._rows(background=self.conventions.background_first),
            targets=MaskTargets(
                plus_one=False,
                half_pixel=mask.target_half_pixel,
                samples_per_bin=2,
                threshold=mask.target_threshold,
            ),
        )

    @property
    def keypoint_stage(self) -> KeypointStageConfig:
        return KeypointStageConfig(
            inputs=self.pyramid_channels,
            pooling=self._pooling,
            bins=self.keypoints.bins,
            channels=self.keypoints.channels,
            convolutions=self.keypoints.convolutions,
            points=self.keypoint_count,
        )

    def _rows(self, background: bool) -> ClassRows:
        """Of a predictor with or without a row for the background."""
        count = self.class_count
        if not self.conventions.background_first:
            return ClassRows(classes=count, count=count + background)
        if self.conventions.category_rows and count == len(COCO_THINGS):
            ids = tuple(label.id for label in COCO_THINGS)
            return ClassRows(classes=count, count=1 + max(ids), places=ids)
        return ClassRows(classes=count, count=1 + count, first=1)

    @property
    def _pooling(self) -> RegionPooling:
        conventions = self.conventions
        return RegionPooling(
            strides=self.backbone.stage_strides,
            canonical_level=2,
            canonical_size=self.canonical_size,
            epsilon=conventions.level_epsilon,
            epsilon_inside=conventions.level_epsilon_inside,
            plus_one=False,
            half_pixel=conventions.half_pixel,
            samples_per_bin=conventions.samples_per_bin,
        )
