"""The contract of a bundle: `manifest.json` as frozen structs.

Every room reads it: training-side evaluation, calibration, parity and the device call the same pre- and
post-processing functions with the specifications found here. A *kind* of thing (a preprocessing, a
postprocessing, a schedule) is one tagged struct and the one function that implements it.

JSON form: every struct is an object; a kind carries `"kind": "<tag>"`; enums are their string values; tuples
are arrays. Absent optional fields mean their default. `docs/manifest.md` describes each part with an example.

Reading is strict: an unknown field, a wrong type, a reference to something undeclared or a newer format is
refused with the version that wrote the file.

Coordinates anywhere in a manifest are continuous with the origin at the outer corner of the first pixel:
pixel column j covers [j, j + 1). Sizes are (height, width) unless a field's name says otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.runtime.contract.kinds import AffineCrop as AffineCrop
from edgewise.runtime.contract.kinds import AsIs as AsIs
from edgewise.runtime.contract.kinds import Boxes as Boxes
from edgewise.runtime.contract.kinds import ColourOrder as ColourOrder
from edgewise.runtime.contract.kinds import DenseSurface as DenseSurface
from edgewise.runtime.contract.kinds import EveryFrame as EveryFrame
from edgewise.runtime.contract.kinds import Faces as Faces
from edgewise.runtime.contract.kinds import Fraction as Fraction
from edgewise.runtime.contract.kinds import HeatmapDecoding as HeatmapDecoding
from edgewise.runtime.contract.kinds import HeatmapKeypoints as HeatmapKeypoints
from edgewise.runtime.contract.kinds import ImageOutput as ImageOutput
from edgewise.runtime.contract.kinds import Interpolation as Interpolation
from edgewise.runtime.contract.kinds import IouTracker as IouTracker
from edgewise.runtime.contract.kinds import KeyEveryN as KeyEveryN
from edgewise.runtime.contract.kinds import KeyOnSceneChange as KeyOnSceneChange
from edgewise.runtime.contract.kinds import Letterbox as Letterbox
from edgewise.runtime.contract.kinds import MaskRule as MaskRule
from edgewise.runtime.contract.kinds import NonNegative as NonNegative
from edgewise.runtime.contract.kinds import PadSide as PadSide
from edgewise.runtime.contract.kinds import PadValue as PadValue
from edgewise.runtime.contract.kinds import PanopticFusion as PanopticFusion
from edgewise.runtime.contract.kinds import PanopticSegments as PanopticSegments
from edgewise.runtime.contract.kinds import Part as Part
from edgewise.runtime.contract.kinds import PastedInstances as PastedInstances
from edgewise.runtime.contract.kinds import PixelRule as PixelRule
from edgewise.runtime.contract.kinds import PositiveInt as PositiveInt
from edgewise.runtime.contract.kinds import Postprocess as Postprocess
from edgewise.runtime.contract.kinds import Preprocess as Preprocess
from edgewise.runtime.contract.kinds import PrototypeInstances as PrototypeInstances
from edgewise.runtime.contract.kinds import Schedule as Schedule
from edgewise.runtime.contract.kinds import Sha256 as Sha256
from edgewise.runtime.contract.kinds import ShortestEdge as ShortestEdge
from edgewise.runtime.contract.kinds import Size as Size
from edgewise.runtime.contract.kinds import Stretch as Stretch
from edgewise.runtime.system.errors import ManifestError

FORMAT_VERSION = 1

# ---------------------------------------------------------------- what this is


class Task(enum.Enum):
    INSTANCES = "instances"
    PANOPTIC = "panoptic"
    KEYPOINTS = "keypoints"
    BOXES = "boxes"
    FACES = "faces"
    DENSE_SURFACE = "dense-surface"
    IMAGE = "image"


class ClassKind(enum.Enum):
    THING = "thing"
    STUFF = "stuff"


class ClassLabel(Part, frozen=True, kw_only=True):
    """One class; its index in `Manifest.classes` is what graphs emit, `id` is the dataset's category id."""

    id: int
    name: str
    kind: ClassKind = ClassKind.THING


class KeypointLayout(Part, frozen=True, kw_only=True):
    """Names in the order the graph emits; flip pairs and limbs are pairs of indices into `names`."""

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    limbs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[NonNegative, ...] = ()
    """COCO's per-keypoint constants of the object keypoint similarity; empty or one a name."""


class ProvenanceStep(Part, frozen=True, kw_only=True):
    """One arrow of the workstation's way, e.g. `simplify` with the tool and what it changed."""

    step: str
    tool: str
    detail: str = ""


class Provenance(Part, frozen=True, kw_only=True):
    """Where the numbers come from. `definition` is `registry:<name>` or the module's qualified name."""

    definition: str
    checkpoint_sha256: Sha256 | None = None
    training_command: str = ""
    tools: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    steps: tuple[ProvenanceStep, ...] = ()


# ---------------------------------------------------------------- graphs, state, schedule


class DType(enum.Enum):
    UINT8 = "uint8"
    INT8 = "int8"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    BOOL = "bool"


class Target(enum.Enum):
    """Who runs the lowered file."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class Precision(enum.Enum):
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class TensorSpec(Part, frozen=True, kw_only=True):
    """A named input or output of a graph; all shapes are fixed."""

    name: str
    dtype: DType
    shape: tuple[PositiveInt, ...]
    meaning: str = ""
    value_range: tuple[float, float] | None = None
    """Inclusive bounds that every finite value keeps; checked by the self test."""


class GraphFile(Part, frozen=True, kw_only=True):
    """The ONNX file of one graph lowered for one target in one precision."""

    target: Target
    precision: Precision
    path: str


class Graph(Part, frozen=True, kw_only=True):
    """One network. The canonical model gives `outputs` and then `probes`; lowered files give `outputs`.

    Probes are inner float tensors (raw head outputs) that keep their names in every lowered file, so that
    parity can compare them where decoding would reorder near-equal scores.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[TensorSpec, ...] = ()
    canonical: str | None = None
    files: tuple[GraphFile, ...] = ()


class StateTensor(Part, frozen=True, kw_only=True):
    """A tensor that one run leaves on the device for the next.

    `source` and `sinks` are `graph.tensor` addresses: the output that writes it, the inputs that read it.
    """

    name: str
    spec: TensorSpec
    source: str
    sinks: tuple[str, ...]
    initial_value: float = 0.0


# ---------------------------------------------------------------- precision, calibration, proof, files


class KeptNode(Part, frozen=True, kw_only=True):
    """A node that stays wider than the precision asked for, and the measured reason."""

    node: str
    precision: Precision
    reason: str


class RealisedPrecision(Part, frozen=True, kw_only=True):
    """What a builder made of it: number of engine layers by the widest type they compute in."""

    target: Target
    tool: str
    device: str
    layers: dict[str, int]


class PrecisionRecord(Part, frozen=True, kw_only=True):
    precision: Precision
    asked: str
    kept: tuple[KeptNode, ...] = ()
    realised: tuple[RealisedPrecision, ...] = ()


class CalibrationMethod(enum.Enum):
    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class Calibration(Part, frozen=True, kw_only=True):
    method: CalibrationMethod
    table: str
    tensorrt_cache: str | None = None
    sample_count: PositiveInt
    seed: int
    samples_sha256: Sha256
    """Over the sample list: one `<sha256 of the file>  <name>` line each, in order. A model of crops adds
    two spaces and the four sides of the box, x1 y1 x2 y2."""
    preprocess_sha256: Sha256
    """Over the JSON of the preprocessing that fed the observers."""


class Golden(Part, frozen=True, kw_only=True):
    """One input and what the training definition gave for it.

    `image` is a PNG of the source frame; `tensors` an .npz of the graph's outputs and probes, the looks at
    the frame stacked along the batch axis; `result` the decoded result as COCO-style JSON in source
    coordinates.
    """

    image: str
    tensors: str
    result: str
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """Where the network looks, x1, y1, x2, y2 in source pixels; none for models of whole frames."""


class Budget(Part, frozen=True, kw_only=True):
    """Largest differences allowed against FP32 torch, per precision, at the three levels."""

    precision: Precision
    tensor_relative_error: NonNegative
    """max|a - b| / max|b| of a probe (of an output where a graph has no probes)."""
    tensor_cosine: Fraction = 0.0
    matched_fraction: Fraction
    """Share of reference instances above the display threshold that find a partner of the same class."""
    similarity: Fraction
    """Least mean similarity of matched pairs: IoU of masks and segments, object keypoint similarity."""
    score_difference: NonNegative
    """Largest mean absolute score difference of matched instances."""
    metric_drop: NonNegative
    """Largest loss in the task's metric (mask AP, PQ, PCK), in absolute units of 0..1."""


class FileEntry(Part, frozen=True, kw_only=True):
    """A file of the bundle; `path` is relative with forward slashes."""

    path: str
    size: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class Manifest(Part, frozen=True, kw_only=True):
    format: int = FORMAT_VERSION
    writer: str
    """Program and version that wrote the file, e.g. `edgewise 0.1.0`."""
    name: str
    task: Task
    classes: tuple[ClassLabel, ...] = ()
    keypoints: KeypointLayout | None = None
    licence: str = ""
    provenance: Provenance
    graphs: dict[str, Graph]
    state: tuple[StateTensor, ...] = ()
    schedule: Schedule = EveryFrame()
    preprocess: Preprocess
    postprocess: Postprocess
    precisions: tuple[PrecisionRecord, ...] = ()
    calibration: Calibration | None = None
    goldens: tuple[Golden, ...] = ()
    budgets: tuple[Budget, ...] = ()
    files: tuple[FileEntry, ...] = ()

    def budget(self, precision: Precision) -> Budget:
        """The budget of a precision; ManifestError where the manifest states none."""
        for budget in self.budgets:
            if budget.precision is precision:
                return budget
        raise ManifestError(
            f"the manifest states no budget for {precision.value}",
            where=self.name,
            hint="export again with a budget for this precision",
        )


class _Header(msgspec.Struct):
    """The two fields read before anything else, so that a newer file is refused by name."""

    format: int = 1
    writer: str = "an unnamed writer"


def encode(manifest: Manifest) -> bytes:
    """Check and write a manifest as indented UTF-8 JSON.

    Raises:
        ManifestError: A part does not fit, or a value that reading would refuse, such as NaN.
    """
    check(manifest)
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    decode(data)
    return data


def decode(data: bytes) -> Manifest:
    """Read a manifest strictly.

    Raises:
        ManifestError: Not JSON, a newer format, an unknown or ill-typed field, or a broken reference.
    """
    try:
        header = msgspec.json.decode(data, type=_Header)
    except msgspec.MsgspecError as error:
        raise ManifestError(f"not a manifest: {error}", hint="export the bundle again") from None
    if header.format != FORMAT_VERSION:
        raise ManifestError(
            f"manifest format {header.format}, written by {header.writer}; this edgewise reads format "
            f"{FORMAT_VERSION}",
            hint="update edgewise on this machine, or export the bundle again with this version",
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ManifestError(
            f"the manifest written by {header.writer} does not follow format {FORMAT_VERSION}: {error}",
            hint="update edgewise, or export the bundle again",
        ) from None
    check(manifest)
    return manifest


def check(manifest: Manifest) -> None:
    """Raise ManifestError where the parts of a manifest do not fit together."""
    for problem in _problems(manifest):
        raise ManifestError(
            problem, where=manifest.name, hint="correct the manifest that was passed to export"
        )


def _problems(manifest: Manifest) -> Iterable[str]:
    if manifest.format != FORMAT_VERSION:
        yield f"format {manifest.format} is not {FORMAT_VERSION}"
    if not manifest.graphs:
        yield "no graph is declared"
    for name, graph in manifest.graphs.items():
        tensors = [tensor.name for tensor in (*graph.inputs, *graph.outputs, *graph.probes)]
        for tensor in sorted({tensor for tensor in tensors if tensors.count(tensor) > 1}):
            yield f"graph {name!r} declares the tensor {tensor!r} twice"
    yield from _schedule_problems(manifest)
    yield from _state_problems(manifest)
    yield from _postprocess_problems(manifest)
    yield from _file_problems(manifest)
    layout = manifest.keypoints
    if layout is not None:
        if layout.sigmas and len(layout.sigmas) != len(layout.names):
            yield f"{len(layout.sigmas)} keypoint sigmas for {len(layout.names)} names"
        for pair in (*layout.flip_pairs, *layout.limbs):
            if not all(0 <= index < len(layout.names) for index in pair):
                yield f"keypoint pair {pair} is outside the {len(layout.names)} names"
    ids = [label.id for label in manifest.classes]
    if len(set(ids)) != len(ids):
        yield "two classes share an id"
    precisions = [budget.precision for budget in manifest.budgets]
    if len(set(precisions)) != len(precisions):
        yield "two budgets are stated for one precision"


def _schedule_problems(manifest: Manifest) -> Iterable[str]:
    schedule = manifest.schedule
    wanted = (schedule.graph,) if isinstance(schedule, EveryFrame) else (schedule.key, schedule.nonkey)
    for graph in wanted:
        if graph not in manifest.graphs:
            yield f"the schedule runs graph {graph!r}, which is not declared"


def _state_problems(manifest: Manifest) -> Iterable[str]:
    outputs = {
        f"{name}.{spec.name}": spec for name, graph in manifest.graphs.items() for spec in graph.outputs
    }
    inputs = {f"{name}.{spec.name}": spec for name, graph in manifest.graphs.items() for spec in graph.inputs}
    for state in manifest.state:
        places = [(state.source, outputs, "output"), *((sink, inputs, "input") for sink in state.sinks)]
        for address, known, kind in places:
            spec = known.get(address)
            if spec is None:
                yield f"state {state.name!r} names {address!r}, which is no graph's {kind}"
            elif (spec.dtype, spec.shape) != (state.spec.dtype, state.spec.shape):
                yield f"state {state.name!r} and {address!r} differ in dtype or shape"


_NOT_OUTPUTS = {"decoding", "by", "kind"}


def output_names(postprocess: Postprocess) -> tuple[str, ...]:
    """The graph outputs that a postprocessing reads."""
    return tuple(
        value
        for field in postprocess.__struct_fields__
        if field not in _NOT_OUTPUTS and isinstance(value := getattr(postprocess, field), str)
    )


def _postprocess_problems(manifest: Manifest) -> Iterable[str]:
    declared = {spec.name for graph in manifest.graphs.values() for spec in graph.outputs}
    for name in output_names(manifest.postprocess):
        if name not in declared:
            yield f"postprocessing reads the output {name!r}, which no graph declares"


def _file_problems(manifest: Manifest) -> Iterable[str]:
    if not manifest.files:
        return
    listed = [entry.path for entry in manifest.files]
    for path in sorted({path for path in listed if listed.count(path) > 1}):
        yield f"the file {path!r} is listed twice"
    for path in listed:
        if path.startswith("/") or "\\" in path or ":" in path or ".." in path.split("/"):
            yield f"the file path {path!r} leaves the bundle folder"
    for path in referenced_files(manifest):
        if path not in listed:
            yield f"the file {path!r} is used but not listed"


def referenced_files(manifest: Manifest) -> tuple[str, ...]:
    """Every path that some part of the manifest points to."""
    paths: list[str] = []
    for graph in manifest.graphs.values():
        paths += [graph.canonical] if graph.canonical else []
        paths += [file.path for file in graph.files]
    if manifest.calibration is not None:
        paths.append(manifest.calibration.table)
        paths += [manifest.calibration.tensorrt_cache] if manifest.calibration.tensorrt_cache else []
    for golden in manifest.goldens:
        paths += [golden.image, golden.tensors, golden.result]
    return tuple(paths)
