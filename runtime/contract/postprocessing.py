"""The kinds of result that a manifest can name; each has a room in `kinds/`.

Each kind is one tagged struct; in JSON its tag stands under `kind`. What such a struct names of a graph's
outputs is of the type `OutputName`, and what it asks of the rest of the manifest it says itself (`problems`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast, get_args

import msgspec
from msgspec import Meta

from edgewise.runtime.contract.parts import Fraction, Index, Part, PositiveInt

if TYPE_CHECKING:
    from edgewise.runtime.contract.manifest import Manifest

OutputName = Annotated[str, Meta(extra={"names": "output"})]
"""The name of a graph's output that decoding reads."""


class Postprocess:
    """What every kind of postprocessing says of itself, whatever its fields.

    Attributes:
        task: What its results are an answer to: the name of a row of the workstation's tasks.
    """

    __slots__ = ()
    task: ClassVar[str]

    def problems(self, manifest: Manifest) -> Iterable[str]:
        """What of the rest of a manifest does not fit this kind; by default it wants whole frames."""
        if manifest.preprocess.needs_boxes:
            yield "this kind of result needs a preprocessing of the whole frame"

    @property
    def output_fields(self) -> tuple[str, ...]:
        """The fields that name outputs."""
        fields = msgspec.structs.fields(cast(Any, self))
        return tuple(field.name for field in fields if OutputName in (field.type, *get_args(field.type)))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph outputs that decoding reads."""
        named = (getattr(self, field) for field in self.output_fields)
        return tuple(name for name in named if name is not None)

    @property
    def shown_from(self) -> float:
        """The score from which a user sees a thing: the display threshold, or the only threshold there is."""
        for field in ("display_threshold", "score_threshold"):
            if (value := getattr(self, field, None)) is not None:
                return float(value)
        return 0.0


class ResultKind(Part, Postprocess, frozen=True, kw_only=True, tag_field="kind"):
    """Base of the structs: `Postprocess` as a part of a manifest."""


class SoftSuppression(Part, frozen=True, kw_only=True):
    """Soft-NMS with a Gaussian (Bodla et al., 2017), class by class, pixels counted inclusively.

    The best box is taken, and what overlaps it by IoU loses the factor exp(-IoU^2 / sigma) of its score; what
    falls below `least_score` is dropped. Then the next best, and so on.
    """

    sigma: Annotated[float, Meta(gt=0.0)] = 0.5
    least_score: Fraction = 0.001
    most: PositiveInt = 100
    """Boxes of a frame that are kept."""


class DetectedBoxes(ResultKind, frozen=True, kw_only=True, tag="detected-boxes"):
    """Fixed slots of box, score and class (RetinaNet, Faster R-CNN).

    Boxes are xyxy in network-input pixels; a score of 0 marks an empty slot.
    """

    task: ClassVar[str] = "boxes"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    classes: OutputName = "classes"
    settled: OutputName | None = None
    score_threshold: Fraction = 0.0
    """Slots with a score above this become boxes."""
    display_threshold: Fraction = 0.5
    """Overlays show boxes of at least this score."""
    soft_suppression: SoftSuppression | None = None
    """What the runtime does to boxes that overlap; by default the graph has done it."""


class CentredBoxes(DetectedBoxes, frozen=True, kw_only=True, tag="centred-boxes"):
    """Boxes that count only with a centre in their middle (CenterNet of keypoint triplets).

    `centres` [1, K, 2] are x, y in network-input pixels, K fixed slots in the order in which they are asked;
    a score of 0 marks an empty one. The middle of a box is the middle third along both axes, of one of more
    than `large_area` frame pixels the middle fifth. The first centre of the box's class there makes its score
    (2 s + s_centre) / 3; a box without one is dropped, and one that reaches `reach` network-input pixels or
    more over an edge of the frame.
    """

    centres: OutputName = "centres"
    centre_scores: OutputName = "centre_scores"
    centre_classes: OutputName = "centre_classes"
    large_area: Annotated[float, Meta(ge=0.0)] = 22500.0
    reach: Annotated[float, Meta(ge=0.0)] = 5.0


class MaskRule(enum.Enum):
    """How a low-resolution probability mask becomes frame pixels."""

    BILINEAR_HALF_PIXEL = "bilinear-half-pixel"
    """Sample at pixel centres with half-pixel alignment, edge pixels repeated (no antialias)."""
    PASTE_ALIGNED = "paste-aligned"
    """Sample at pixel centres inside the continuous box with zeros outside (detectron2)."""
    PASTE_PADDED = "paste-padded"
    """The mask with a ring of zeros around it fills whole pixels of the enlarged box: both corners are cut
    off towards 0, and the far one's pixel belongs to it (torchvision)."""


PASTE_RULES = (MaskRule.PASTE_ALIGNED, MaskRule.PASTE_PADDED)
"""Of masks that fill their boxes."""


class PrototypeInstances(ResultKind, frozen=True, kw_only=True, tag="prototype-instances"):
    """Fixed slots of box, score, class and a whole-input mask at prototype resolution (YOLACT).

    Boxes are xyxy in network-input pixels; a score of 0 marks an empty slot; the mask is a probability.
    """

    task: ClassVar[str] = "instances"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    classes: OutputName = "classes"
    masks: OutputName = "masks"
    settled: OutputName | None = None
    score_threshold: Fraction = 0.0
    """Slots with a score above this become instances."""
    display_threshold: Fraction = 0.3
    """Overlays show instances of at least this score."""
    mask_threshold: Fraction = 0.5
    mask_rule: MaskRule = MaskRule.BILINEAR_HALF_PIXEL

    def problems(self, manifest: Manifest) -> Iterable[str]:
        yield from super().problems(manifest)
        yield from _other_rule(self.mask_rule, (MaskRule.BILINEAR_HALF_PIXEL,))


class PastedInstances(ResultKind, frozen=True, kw_only=True, tag="pasted-instances"):
    """Fixed slots of box, score, class and a mask inside the box (Mask R-CNN)."""

    task: ClassVar[str] = "instances"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    classes: OutputName = "classes"
    masks: OutputName = "masks"
    settled: OutputName | None = None
    score_threshold: Fraction = 0.05
    display_threshold: Fraction = 0.5
    mask_threshold: Fraction = 0.5
    mask_rule: MaskRule = MaskRule.PASTE_ALIGNED

    def problems(self, manifest: Manifest) -> Iterable[str]:
        yield from super().problems(manifest)
        yield from _other_rule(self.mask_rule, PASTE_RULES)


class PanopticSegments(ResultKind, frozen=True, kw_only=True, tag="panoptic-segments"):
    """The graph has a panoptic head: an argmax over stuff channels, instance slots and the unknown (UPSNet).

    With S stuff classes (in the order of the manifest's classes) and K slots, `segments` [1, h, w] says s for
    the s-th stuff class, S + i for slot i and S + K for the unknown; `semantic` [1, h, w] is the class index
    that the semantic head alone gives. Both maps lie over the whole network input.
    """

    task: ClassVar[str] = "panoptic"
    scores: OutputName = "scores"
    classes: OutputName = "classes"
    segments: OutputName = "segments"
    semantic: OutputName = "semantic"
    settled: OutputName | None = None
    score_threshold: Fraction = 0.0
    """Only slots with a score above this become segments."""
    display_threshold: Fraction = 0.5
    agreement: Fraction = 0.5
    """An instance becomes stuff when at least this share of its pixels has that class by `semantic`."""
    stuff_area_limit: Annotated[int, Meta(ge=0, le=1 << 40)] = 4096
    """Stuff segments with fewer source pixels become void."""


class PanopticFusion(ResultKind, frozen=True, kw_only=True, tag="panoptic-fusion"):
    """Instances and a semantic map fused in score order (detectron2's rule), for any pair of heads.

    `masks` follow `mask_rule` as in the instance kinds. `semantic` is float logits [1, C, h, w] or an int32
    map of channel numbers [1, h, w], over the whole network input.
    """

    task: ClassVar[str] = "panoptic"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    classes: OutputName = "classes"
    masks: OutputName = "masks"
    semantic: OutputName = "semantic"
    semantic_classes: tuple[Index, ...]
    """The index into the manifest's classes of each semantic channel; -1 for one that is no stuff class."""
    settled: OutputName | None = None
    score_threshold: Fraction = 0.5
    """Only instances with a score above this take part."""
    display_threshold: Fraction = 0.5
    overlap_limit: Fraction = 0.5
    """An instance of whose pixels more than this share is taken already is left out."""
    stuff_area_limit: Annotated[int, Meta(ge=0, le=1 << 40)] = 4096
    """Stuff segments with fewer source pixels become void."""
    mask_threshold: Fraction = 0.5
    mask_rule: MaskRule = MaskRule.PASTE_ALIGNED


class HeatmapDecoding(enum.Enum):
    """Where a keypoint lies around its map's maximum; `kinds/keypoints/decode.py` has the rules."""

    QUARTER_PIXEL = "quarter-pixel"
    QUARTER_ALWAYS = "quarter-always"
    QUARTER_INSIDE = "quarter-inside"
    DARK = "dark"


class CellPlace(enum.Enum):
    """Which place of the network's input a heatmap's cell stands for; weights are trained with one rule."""

    CENTRE = "centre"
    """Its centre: the middle of the pixels that it covers (hourglass)."""
    NUMBER = "number"
    """The pixel of its number times the stride (SimpleBaseline, HRNet)."""
    DISTANCE = "distance"
    """Middle on middle, and the centres of the first and last column's cells are those of the first and last
    column's pixels; rows by the same factor (DARK)."""


class HeatmapKeypoints(ResultKind, frozen=True, kw_only=True, tag="heatmap-keypoints"):
    """One heatmap a keypoint; peaks go back to the source through the crop's inverse affine map."""

    task: ClassVar[str] = "keypoints"
    heatmaps: OutputName = "heatmaps"
    decoding: HeatmapDecoding = HeatmapDecoding.QUARTER_PIXEL
    cells: CellPlace = CellPlace.CENTRE
    flip_test: bool = False
    """Also look at the mirrored crop and average both heatmaps."""
    flip_shift: bool = False
    """In the flip test move the mirrored look's heatmaps, turned back, one column to the right."""
    score_threshold: Fraction = 0.2
    """Keypoints that score less are drawn faintly and do not count in a person's score."""
    display_threshold: Fraction = 0.2

    def problems(self, manifest: Manifest) -> Iterable[str]:
        yield from _missing_keypoints(manifest)
        if self.flip_test:
            yield from _no_flip_test(manifest)


class PointOrigin(enum.Enum):
    """What the numbers count that a network was trained to give for points."""

    CORNER = "corner"
    """Continuous coordinates: 0 is the outer edge of the first pixel."""
    INPUT_PIXEL = "input-pixel"
    """Pixels of the network's input, 0 the first one's centre: half of such a pixel is added (mmpose)."""
    FRAME_PIXEL = "frame-pixel"
    """Pixels of the frame, 0 the first one's centre: half of such a pixel is added (PFLD)."""


class RegressedKeypoints(ResultKind, frozen=True, kw_only=True, tag="regressed-keypoints"):
    """Points that the graph gives itself (DeepPose, PFLD): no map, no maximum.

    `points` is float32 [1, K, 2], x and y as shares of the network's input, 0..1 inside of it. Without an
    output of scores [1, K], 0..1, the network does not say how sure it is, and every point scores 1.
    """

    task: ClassVar[str] = "keypoints"
    points: OutputName = "points"
    scores: OutputName | None = None
    origin: PointOrigin = PointOrigin.CORNER
    flip_test: bool = False
    """Also look at the mirrored crop and average both places."""
    flip_shift: bool = False
    """The mirrored look's x lose one input pixel first, as fits `PointOrigin.INPUT_PIXEL`."""
    score_threshold: Fraction = 0.2
    """Keypoints that score less are drawn faintly and do not count in a person's score."""
    display_threshold: Fraction = 0.2

    def problems(self, manifest: Manifest) -> Iterable[str]:
        yield from _missing_keypoints(manifest)
        if self.flip_test:
            yield from _no_flip_test(manifest)


def _missing_keypoints(manifest: Manifest) -> Iterable[str]:
    if manifest.keypoints is None:
        yield "the manifest names no keypoints, which results of this kind need"


def _no_flip_test(manifest: Manifest) -> Iterable[str]:
    """Why a model cannot also look at the mirrored crop."""
    if not manifest.preprocess.needs_boxes:
        yield "only models that look at crops have a flip test"
    if manifest.keypoints is not None and not manifest.keypoints.flip_pairs:
        yield (
            "a flip test needs the flip pairs of the keypoints, or it takes left for right "
            "(a point in the middle may be its own pair)"
        )


class PointScore(enum.Enum):
    """What says how sure a point is whose map holds logits, m being the greatest of the resized map."""

    LOGIT = "logit"
    """The logistic function of m (torchvision gives m itself)."""
    PROBABILITY = "probability"
    """The share of e^m in the sum of e^logit over the map's cells, at most 1 (detectron2)."""


class BoxedKeypoints(ResultKind, frozen=True, kw_only=True, tag="boxed-keypoints"):
    """Fixed slots of box, score, class and a map of logits over the box for each point (Keypoint R-CNN).

    Boxes are xyxy in network-input pixels; a score of 0 marks an empty slot. A map is doubled, resized to
    its box, and the point lies at its maximum.
    """

    task: ClassVar[str] = "people"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    classes: OutputName = "classes"
    heatmaps: OutputName = "heatmaps"
    settled: OutputName | None = None
    score_threshold: Fraction = 0.05
    """Slots with a score above this become people."""
    display_threshold: Fraction = 0.5
    """Overlays show people of at least this score."""
    point_score: PointScore = PointScore.PROBABILITY
    point_threshold: Fraction = 0.05
    """Points that score less are drawn faintly."""
    pixel_numbers: bool = False
    """The network counts pixels of the frame, and half of one is added to each point (torchvision)."""

    def problems(self, manifest: Manifest) -> Iterable[str]:
        yield from super().problems(manifest)
        yield from _missing_keypoints(manifest)


class BoxedPoints(ResultKind, frozen=True, kw_only=True, tag="boxed-points"):
    """Fixed slots of box, score, class and the points themselves (RetinaFace).

    Boxes are xyxy, `points` [1, S, K, 2] x and y, in network-input pixels; a score of 0 marks an empty slot.
    The network does not say how sure it is of a point.
    """

    task: ClassVar[str] = "faces"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    classes: OutputName = "classes"
    points: OutputName = "points"
    settled: OutputName | None = None
    score_threshold: Fraction = 0.02
    """Slots with a score above this become faces."""
    display_threshold: Fraction = 0.6
    """Overlays show faces of at least this score."""

    def problems(self, manifest: Manifest) -> Iterable[str]:
        yield from super().problems(manifest)
        yield from _missing_keypoints(manifest)


class ChartSurface(ResultKind, frozen=True, kw_only=True, tag="chart-surface"):
    """Fixed slots of box, score, class and maps over the box: parts of a body and their charts (DensePose).

    `coarse` [1, K, c, s, s] and `fine` [1, K, parts + 1, s, s] are logits whose channel 0 is the background;
    `u` and `v` [1, K, parts + 1, s, s] are places on the parts' charts.
    """

    task: ClassVar[str] = "surface"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    classes: OutputName = "classes"
    coarse: OutputName = "coarse"
    fine: OutputName = "fine"
    u: OutputName = "u"
    v: OutputName = "v"
    settled: OutputName | None = None
    parts: Annotated[int, Meta(ge=1, le=254)] = 24
    upsampling: Annotated[int, Meta(ge=1, le=8)] = 2
    """The maps are enlarged by this, bilinearly, before they are resized to the box."""
    score_threshold: Fraction = 0.05
    """Slots with a score above this become surfaces."""
    display_threshold: Fraction = 0.8
    """Overlays show surfaces of at least this score."""


def _other_rule(stated: MaskRule, implemented: tuple[MaskRule, ...]) -> Iterable[str]:
    if stated not in implemented:
        names = " or ".join(repr(rule.value) for rule in implemented)
        yield f"these masks are resampled by the rule {names}, not by {stated.value!r}"


_KNOWN: dict[str, type[Postprocess]] = {}


def declare(spec: type[Postprocess]) -> None:
    """Make a kind of postprocessing readable: manifests may name it by its tag."""
    _KNOWN[str(cast(Any, spec).__struct_config__.tag)] = spec


for _spec in (
    DetectedBoxes,
    CentredBoxes,
    PrototypeInstances,
    PastedInstances,
    PanopticSegments,
    PanopticFusion,
    HeatmapKeypoints,
    RegressedKeypoints,
    BoxedKeypoints,
    BoxedPoints,
    ChartSurface,
):
    declare(_spec)


def read_postprocess(plain: Any) -> Postprocess:
    """The struct of a decoded JSON object.

    Raises:
        msgspec.ValidationError: No object, a kind that nothing here implements, or a field that does not fit.
    """
    kind = plain.get("kind") if isinstance(plain, dict) else None
    if not isinstance(kind, str) or kind not in _KNOWN:
        known = ", ".join(sorted(_KNOWN))
        raise msgspec.ValidationError(f"nothing here decodes results of the kind {kind!r}; known: {known}")
    return msgspec.convert(plain, _KNOWN[kind])
