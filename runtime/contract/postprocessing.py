"""The kinds of result that a manifest can name; each has a room in `kinds/`.

Each kind is one tagged struct; in JSON its tag stands under `kind`.
"""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta

from edgewise.runtime.contract.parts import Fraction, Part, PositiveInt
from edgewise.runtime.contract.preprocessing import ColourOrder


class IouTracker(Part, frozen=True, kw_only=True):
    """Greedy frame-to-frame association by mask or box IoU; a track ends after `patience` missed frames."""

    threshold: Fraction = 0.3
    patience: PositiveInt = 10
    by: str = "box"


class MaskRule(enum.Enum):
    """How a low-resolution probability mask becomes frame pixels."""

    BILINEAR_HALF_PIXEL = "bilinear-half-pixel"
    """Sample at pixel centres with half-pixel alignment, edge pixels repeated (no antialias)."""
    PASTE_ALIGNED = "paste-aligned"
    """Sample at pixel centres inside the continuous box with zeros outside (Mask R-CNN, aligned)."""


class PrototypeInstances(Part, frozen=True, kw_only=True, tag_field="kind", tag="prototype-instances"):
    """Fixed slots of box, score, class and a whole-input mask at prototype resolution (YOLACT).

    Boxes are xyxy in network-input pixels; a score of 0 marks an empty slot; the mask is a probability.
    """

    boxes: str = "boxes"
    scores: str = "scores"
    classes: str = "classes"
    masks: str = "masks"
    settled: str | None = None
    score_threshold: Fraction = 0.0
    """Slots with a score above this become instances."""
    display_threshold: Fraction = 0.3
    """Overlays show instances of at least this score."""
    mask_threshold: Fraction = 0.5
    mask_rule: MaskRule = MaskRule.BILINEAR_HALF_PIXEL
    tracker: IouTracker | None = None


class PastedInstances(Part, frozen=True, kw_only=True, tag_field="kind", tag="pasted-instances"):
    """Fixed slots of box, score, class and a mask inside the box (Mask R-CNN)."""

    boxes: str = "boxes"
    scores: str = "scores"
    classes: str = "classes"
    masks: str = "masks"
    settled: str | None = None
    score_threshold: Fraction = 0.05
    display_threshold: Fraction = 0.5
    mask_threshold: Fraction = 0.5
    mask_rule: MaskRule = MaskRule.PASTE_ALIGNED
    tracker: IouTracker | None = None


class PanopticSegments(Part, frozen=True, kw_only=True, tag_field="kind", tag="panoptic-segments"):
    """The graph has a panoptic head: an argmax over stuff channels, instance slots and the unknown (UPSNet).

    With S stuff classes (in the order of the manifest's classes) and K slots, `segments` [1, h, w] says s for
    the s-th stuff class, S + i for slot i and S + K for the unknown; `semantic` [1, h, w] is the class index
    that the semantic head alone gives. Both maps lie over the whole network input.
    """

    scores: str = "scores"
    classes: str = "classes"
    segments: str = "segments"
    semantic: str = "semantic"
    settled: str | None = None
    score_threshold: Fraction = 0.0
    """Only slots with a score above this become segments."""
    display_threshold: Fraction = 0.5
    agreement: Fraction = 0.5
    """An instance becomes stuff when at least this share of its pixels has that class by `semantic`."""
    stuff_area_limit: Annotated[int, Meta(ge=0)] = 4096
    """Stuff segments with fewer source pixels become void."""
    tracker: IouTracker | None = None


class PanopticFusion(Part, frozen=True, kw_only=True, tag_field="kind", tag="panoptic-fusion"):
    """Instances and a semantic map fused in score order (detectron2's rule), for any pair of heads.

    `masks` follow `mask_rule` as in the instance kinds. `semantic` is float logits [1, C, h, w] or an int32
    map of channel numbers [1, h, w], over the whole network input.
    """

    boxes: str = "boxes"
    scores: str = "scores"
    classes: str = "classes"
    masks: str = "masks"
    semantic: str = "semantic"
    semantic_classes: tuple[int, ...]
    """The index into the manifest's classes of each semantic channel; -1 for one that is no stuff class."""
    settled: str | None = None
    score_threshold: Fraction = 0.5
    """Only instances with a score above this take part."""
    display_threshold: Fraction = 0.5
    overlap_limit: Fraction = 0.5
    """An instance of whose pixels more than this share is taken already is left out."""
    stuff_area_limit: Annotated[int, Meta(ge=0)] = 4096
    """Stuff segments with fewer source pixels become void."""
    mask_threshold: Fraction = 0.5
    mask_rule: MaskRule = MaskRule.PASTE_ALIGNED
    tracker: IouTracker | None = None


class HeatmapDecoding(enum.Enum):
    QUARTER_PIXEL = "quarter-pixel"
    DARK = "dark"


class HeatmapKeypoints(Part, frozen=True, kw_only=True, tag_field="kind", tag="heatmap-keypoints"):
    """One heatmap a keypoint; peaks go back to the source through the crop's inverse affine map."""

    heatmaps: str = "heatmaps"
    decoding: HeatmapDecoding = HeatmapDecoding.QUARTER_PIXEL
    flip_test: bool = False
    """Also look at the mirrored crop and average both heatmaps."""
    score_threshold: Fraction = 0.2
    """Keypoints that score less are drawn faintly and do not count in a person's score."""
    display_threshold: Fraction = 0.2


class Boxes(Part, frozen=True, kw_only=True, tag_field="kind", tag="boxes"):
    boxes: str = "boxes"
    scores: str = "scores"
    classes: str = "classes"
    settled: str | None = None
    score_threshold: Fraction = 0.05
    display_threshold: Fraction = 0.5
    tracker: IouTracker | None = None


class Faces(Part, frozen=True, kw_only=True, tag_field="kind", tag="faces"):
    boxes: str = "boxes"
    scores: str = "scores"
    landmarks: str = "landmarks"
    settled: str | None = None
    score_threshold: Fraction = 0.5


class DenseSurface(Part, frozen=True, kw_only=True, tag_field="kind", tag="dense-surface"):
    """Part index and surface coordinates inside each box (DensePose)."""

    boxes: str = "boxes"
    scores: str = "scores"
    parts: str = "parts"
    u: str = "u"
    v: str = "v"
    score_threshold: Fraction = 0.5


class ImageOutput(Part, frozen=True, kw_only=True, tag_field="kind", tag="image"):
    """A float image [1, 3, h, w] in `value_range` becomes uint8 BGR at the source's size."""

    image: str = "image"
    value_range: tuple[float, float] = (-1.0, 1.0)
    colour: ColourOrder = ColourOrder.RGB
    resize_to_source: bool = True


Postprocess = (
    PrototypeInstances
    | PastedInstances
    | PanopticSegments
    | PanopticFusion
    | HeatmapKeypoints
    | Boxes
    | Faces
    | DenseSurface
    | ImageOutput
)
