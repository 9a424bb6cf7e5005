"""The kinds of preprocessing that a manifest can name; `frames/preprocessing.py` implements them.

Each kind is one tagged struct; in JSON its tag stands under `kind`.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from edgewise.runtime.contract.parts import Part, PositiveInt, Size


class ColourOrder(enum.Enum):
    BGR = "bgr"
    RGB = "rgb"


class Interpolation(enum.Enum):
    NEAREST = "nearest"
    LINEAR = "linear"
    CUBIC = "cubic"
    AREA = "area"


class PixelRule(enum.Enum):
    """How target pixel centres map to the source when resizing."""

    HALF_PIXEL = "half-pixel"
    ALIGN_CORNERS = "align-corners"


class PadSide(enum.Enum):
    BOTH = "both"
    """Centred; an odd pixel goes to the bottom and right."""
    BOTTOM_RIGHT = "bottom-right"


PadValue = tuple[
    Annotated[int, Meta(ge=0, le=255)], Annotated[int, Meta(ge=0, le=255)], Annotated[int, Meta(ge=0, le=255)]
]
"""In the colour order of the graph's input."""


class Preprocessing(Part, frozen=True, kw_only=True, tag_field="kind"):
    """Base of the kinds of preprocessing.

    Attributes:
        needs_boxes: Whether it looks at crops around boxes; otherwise at the whole frame.
    """

    needs_boxes: ClassVar[bool] = False


class Stretch(Preprocessing, frozen=True, kw_only=True, tag="stretch"):
    """Resize to `size` without keeping the aspect ratio."""

    size: Size
    colour: ColourOrder = ColourOrder.BGR
    interpolation: Interpolation = Interpolation.LINEAR
    pixel_rule: PixelRule = PixelRule.HALF_PIXEL


class Letterbox(Preprocessing, frozen=True, kw_only=True, tag="letterbox"):
    """Resize by one factor to fit inside `size`, pad the rest."""

    size: Size
    colour: ColourOrder = ColourOrder.BGR
    interpolation: Interpolation = Interpolation.LINEAR
    pixel_rule: PixelRule = PixelRule.HALF_PIXEL
    pad_value: PadValue = (114, 114, 114)
    pad_side: PadSide = PadSide.BOTH


class SideRounding(enum.Enum):
    """How a scaled side becomes a whole number of pixels; weights are made for their code's rule."""

    NEAREST = "nearest"
    """Half a pixel counts as one (detectron2)."""
    DOWN = "down"
    """Cut off (torchvision)."""


class ShortestEdge(Preprocessing, frozen=True, kw_only=True, tag="shortest-edge"):
    """Shorter side to `shortest`, at most `longest` for the longer side, then pad to the fixed `size`.

    Frames that would be larger than `size`, such as upright ones for a wide one, are refused, or with
    `shrink_to_fit` scaled down until they fit.
    """

    shortest: PositiveInt
    longest: PositiveInt
    size: Size
    rounding: SideRounding = SideRounding.NEAREST
    shrink_to_fit: bool = False
    colour: ColourOrder = ColourOrder.BGR
    interpolation: Interpolation = Interpolation.LINEAR
    pixel_rule: PixelRule = PixelRule.HALF_PIXEL
    pad_value: PadValue = (0, 0, 0)
    pad_side: PadSide = PadSide.BOTTOM_RIGHT


class CentredFrame(Preprocessing, frozen=True, kw_only=True, tag="centred-frame"):
    """The frame's centre in the middle of `size` by one affine map, the rest padded (CenterNet, CornerNet).

    No side is rounded. Pixels are read by their numbers: what lies between two is halfway, but as coordinates
    numbers are taken for continuous, as in the code whose rule it is.
    """

    size: Size
    keep_size: bool = False
    """Frames keep their size, those that do not fit into `size` are refused; otherwise they are scaled until
    they fill it along one side."""
    colour: ColourOrder = ColourOrder.BGR
    interpolation: Interpolation = Interpolation.LINEAR
    pad_value: PadValue = (0, 0, 0)


class CropCorners(enum.Enum):
    """Where the corners of a crop lie in the frame; published weights are trained with their code's rule."""

    EXACT = "exact"
    """Where box, aspect ratio and padding put them."""
    WHOLE_PIXELS = "whole-pixels"
    """On whole pixels: the coordinate is cut off towards 0 (princeton's hourglass)."""
    WHOLE_PIXELS_FROM_ONE = "whole-pixels-from-one"
    """The same on coordinates that count from 1; and where a crop is twice `size` or more, the whole frame is
    first shrunk to its scale (bearpaw's hourglass)."""
    PIXEL_NUMBERS = "pixel-numbers"
    """Where they put them, but boxes are in numbers of pixels, and their middle becomes pixel number size / 2
    of the input (SimpleBaseline, HRNet): all of it half a pixel further right and down."""
    PIXEL_DISTANCES = "pixel-distances"
    """About the exact middle, but the distance from the first pixel's centre to the last one's is what is
    scaled, on both axes by the width's factor (DARK)."""


class AffineCrop(Preprocessing, frozen=True, kw_only=True, tag="affine-crop"):
    """Crop around a box: extend it to the aspect ratio of `size`, enlarge by `padding`, warp to `size`.

    `corners` moves what is read by up to a pixel. With corners on whole pixels points still come back by the
    exact ones, otherwise by those that were read, as in the code whose rule it is.
    """

    needs_boxes: ClassVar[bool] = True
    size: Size
    padding: Annotated[float, Meta(ge=1.0)] = 1.25
    colour: ColourOrder = ColourOrder.BGR
    interpolation: Interpolation = Interpolation.LINEAR
    pixel_rule: PixelRule = PixelRule.HALF_PIXEL
    pad_value: PadValue = (0, 0, 0)
    corners: CropCorners = CropCorners.EXACT
    clip_box: bool = False
    """First hold the box inside the frame and, where boxes are in numbers of pixels, end it at its last
    pixel's number: what SimpleBaseline's, HRNet's and DARK's code does to annotated boxes, not to detected
    ones."""


class BoxSide(enum.Enum):
    """Which side of a box a square is made of."""

    LONGER = "longer"
    """The square holds the box (PFLD)."""
    SHORTER = "shorter"
    """pytorch_face_landmark."""


class SquareCrop(Preprocessing, frozen=True, kw_only=True, tag="square-crop"):
    """Crop whole pixels of a square about a box's middle, and resize them bilinearly to `size` (faces).

    The side is `padding` times the box's, cut off to a whole number; the middle is cut off to a whole pixel,
    and half the side, rounded down, lies before it.
    """

    needs_boxes: ClassVar[bool] = True
    interpolation: ClassVar[Interpolation] = Interpolation.LINEAR
    size: Size
    side: BoxSide = BoxSide.LONGER
    padding: Annotated[float, Meta(ge=1.0)] = 1.2
    clipped: bool = False
    """Of a square that leaves the frame, stretch what lies inside (PFLD's camera code); else pad it."""
    colour: ColourOrder = ColourOrder.BGR
    pad_value: PadValue = (0, 0, 0)


class AsIs(Preprocessing, frozen=True, kw_only=True, tag="as-is"):
    """The frame must already have `size`."""

    size: Size
    colour: ColourOrder = ColourOrder.BGR


Preprocess = Stretch | Letterbox | ShortestEdge | CentredFrame | AffineCrop | SquareCrop | AsIs
