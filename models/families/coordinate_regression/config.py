"""What distinguishes one coordinate regressor from another: network, crop, numbers and loss."""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta

from edgewise.models.families.config import Config, Positive
from edgewise.models.layers.image_input import ImageInput, Triple
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.runtime.contract.parts import PositiveInt
from edgewise.runtime.contract.postprocessing import PointOrigin
from edgewise.runtime.contract.preprocessing import AffineCrop, BoxSide, ColourOrder, CropCorners, SquareCrop

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


Padding = Annotated[float, Meta(ge=1.0)]
"""What a box is enlarged by."""


class Pooling(enum.Enum):
    """What a DeepPose head reads of the backbone's last map."""

    AVERAGE = "average"
    """Its mean over all places (mmpose)."""
    NONE = "none"
    """All of it (the paper, whose layers behind the convolutions are fully connected)."""


class DeepPoseNetwork(Config, frozen=True, tag="deeppose"):
    """A ResNet and one fully connected layer."""

    backbone: ResNetConfig = ResNetConfig()
    pooling: Pooling = Pooling.AVERAGE


class MobileNetNetwork(Config, frozen=True, tag="mobilenet-gdconv"):
    """MobileNetV2, whose last map a depthwise convolution of its size weighs place by place."""

    width: Positive = 1.0
    """Times the published channels, in multiples of 8; the last map never has fewer than 1280."""
    last_channels: PositiveInt = 1280


class PfldNetwork(Config, frozen=True, tag="pfld"):
    """PFLD's backbone (PFLD-pytorch): MobileNetV2 blocks with ReLU, and a head on three scales."""

    channels: PositiveInt = 64
    """Of the first stages; the later ones have twice as many."""
    depths: tuple[PositiveInt, PositiveInt] = (5, 6)
    """Blocks of expansion 2 at a quarter, and of expansion 4 at an eighth of the input's size."""
    scales: tuple[PositiveInt, PositiveInt, PositiveInt] = (16, 32, 128)
    """Channels of the three scales that the last layer reads."""


class L1Loss(Config, frozen=True, tag="l1"):
    """|x|, the mean over coordinates."""


class SmoothL1Loss(Config, frozen=True, tag="smooth-l1"):
    """x^2 / 2 beta below beta, |x| - beta / 2 from there, the mean over coordinates."""

    beta: Positive = 1.0


class WingLoss(Config, frozen=True, tag="wing"):
    """width * ln(1 + |x| / curvature) below `width`, then |x| less a constant, summed over coordinates.

    Feng et al., 2018.
    """

    width: Positive = 10.0
    curvature: Positive = 2.0


class SoftWingLoss(Config, frozen=True, tag="soft-wing"):
    """|x| below `inner`, then outer * ln(1 + |x| / curvature) plus a constant, summed over coordinates.

    Lin et al., 2021.
    """

    inner: Positive = 2.0
    outer: Positive = 20.0
    curvature: Positive = 0.5


class SquaredLoss(Config, frozen=True, tag="squared"):
    """x^2, summed over coordinates: PFLD's, with every face of weight 1."""


class Unit(enum.Enum):
    """What a difference x between two points is measured in; Wing losses change with it."""

    SHARE = "share"
    """Of the network's input, along each axis (mmpose, PFLD)."""
    PIXEL = "pixel"
    """Of the network's input (the papers of Wing and SoftWing)."""


class LossConfig(Config, frozen=True):
    kind: L1Loss | SmoothL1Loss | WingLoss | SoftWingLoss | SquaredLoss = WingLoss()
    unit: Unit = Unit.SHARE
    weight: Positive = 1.0


class AffineBox(Config, frozen=True, tag="affine"):
    """An affine crop (`AffineCrop`)."""

    padding: Padding = 1.25
    corners: CropCorners = CropCorners.EXACT

    def crop(self, size: tuple[int, int]) -> AffineCrop:
        """Of a (height, width)."""
        return AffineCrop(size=size, padding=self.padding, corners=self.corners)


class SquareBox(Config, frozen=True, tag="square"):
    """A square of whole pixels (`SquareCrop`)."""

    padding: Padding = 1.2
    side: BoxSide = BoxSide.LONGER
    clipped: bool = False

    def crop(self, size: tuple[int, int]) -> SquareCrop:
        """Of a (height, width)."""
        return SquareCrop(size=size, padding=self.padding, side=self.side, clipped=self.clipped)


class RegressionConfig(Config, frozen=True):
    """One coordinate regressor. The entries have the published ones."""

    input_size: tuple[PositiveInt, PositiveInt] = (256, 256)
    """Height, width; multiples of 32, with PFLD's network of 16."""
    network: DeepPoseNetwork | MobileNetNetwork | PfldNetwork = DeepPoseNetwork()
    keypoint_count: PositiveInt = 98
    box: AffineBox | SquareBox = AffineBox()
    """What the network looks at around a box."""
    origin: PointOrigin = PointOrigin.CORNER
    """What the published weights count; training here teaches continuous coordinates."""
    flip_shift: bool = False
    """Of the flip test, which is off unless asked for."""
    colour: ColourOrder = ColourOrder.RGB
    scale: Positive = 255.0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    """In the network's colour order, on values in 0..1."""
    losses: LossConfig = LossConfig()

    def __post_init__(self) -> None:
        multiple = 16 if isinstance(self.network, PfldNetwork) else 32
        if any(side % multiple for side in self.input_size):
            raise ValueError(
                f"input_size {self.input_size} must be multiples of {multiple}, the stride of the network"
            )

    @property
    def image_input(self) -> ImageInput:
        """What the stem reads of a crop."""
        return ImageInput(self.colour, scale=self.scale, mean=self.mean, std=self.std)


DEEPPOSE_WFLW = RegressionConfig(
    box=AffineBox(corners=CropCorners.PIXEL_NUMBERS), origin=PointOrigin.INPUT_PIXEL, flip_shift=True
)
"""mmpose's for WFLW, with Wing loss: 98 points, boxes enlarged by a quarter."""

PFLD_WFLW = RegressionConfig(
    network=PfldNetwork(),
    input_size=(112, 112),
    box=SquareBox(),
    origin=PointOrigin.FRAME_PIXEL,
    colour=ColourOrder.BGR,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    losses=LossConfig(kind=SquaredLoss()),
)
"""PFLD-pytorch's for WFLW: bytes over 255 in BGR."""

GDCONV_300W = RegressionConfig(
    network=MobileNetNetwork(),
    keypoint_count=68,
    input_size=(224, 224),
    box=SquareBox(side=BoxSide.SHORTER),
    origin=PointOrigin.FRAME_PIXEL,
    colour=ColourOrder.BGR,
    losses=LossConfig(kind=WingLoss(), unit=Unit.PIXEL),
)
"""pytorch_face_landmark's with 68 points: ImageNet's mean and deviation of RGB, on BGR."""

_TINY_BACKBONE = ResNetConfig(depths=(2, 3, 3, 1), widths=(16, 32, 64, 80), expansion=2, stem_width=16)

TINY = RegressionConfig(
    network=DeepPoseNetwork(backbone=_TINY_BACKBONE, pooling=Pooling.NONE),
    keypoint_count=17,
    input_size=(128, 96),
    losses=LossConfig(kind=L1Loss(), unit=Unit.PIXEL),
)
"""A toy of DeepPose for COCO's keypoints, on the backbone of the tiny detectors."""

TINY_FACE = RegressionConfig(
    network=PfldNetwork(channels=24, depths=(2, 4), scales=(16, 32, 64)),
    keypoint_count=98,
    input_size=(112, 112),
    box=AffineBox(padding=1.2),
    colour=ColourOrder.BGR,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    losses=LossConfig(kind=WingLoss(), unit=Unit.PIXEL),
)
"""A toy of PFLD for WFLW's 98 points of a face."""

MICRO = RegressionConfig(
    network=PfldNetwork(channels=8, depths=(2, 2), scales=(4, 6, 8)),
    keypoint_count=3,
    input_size=(32, 48),
    losses=LossConfig(kind=SoftWingLoss(), unit=Unit.PIXEL),
)
"""The smallest that has every part: for tests."""
