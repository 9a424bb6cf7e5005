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
from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.runtime.contract.parts import (
    Coordinate,
    Fraction,
    Id,
    Index,
    NonNegative,
    Part,
    PositiveInt,
    Sha256,
)
from edgewise.runtime.contract.postprocessing import Postprocess
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.contract.schedules import EveryFrame, Schedule
from edgewise.runtime.system.errors import ManifestError

FORMAT_VERSION = 2

# ---------------------------------------------------------------- what this is


class ClassKind(enum.Enum):
    THING = "thing"
    STUFF = "stuff"


class ClassLabel(Part, frozen=True, kw_only=True):
    """One class; its index in `Manifest.classes` is what graphs emit, `id` is the dataset's category id."""

    id: Id
    name: str
    kind: ClassKind = ClassKind.THING


class KeypointLayout(Part, frozen=True, kw_only=True):
    """Names in the order the graph emits; flip pairs and limbs are pairs of indices into `names`.

    A flip pair changes places in a mirror; a point in the middle may be its own pair. Without any pair nobody
    said which points are left and right, and no look is mirrored.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[Index, Index], ...] = ()
    limbs: tuple[tuple[Index, Index], ...] = ()
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
    """The ONNX file of one graph lowered for one target in one precision.

    `since` is the oldest release of the target's runtime that reads the file, such as `1.25`; a file of the
    same target and precision for older ones may follow. Empty where every release reads it.
    """

    target: Target
    precision: Precision
    path: str
    since: str = ""


class NanSums(Part, frozen=True, kw_only=True):
    """A float32 tensor [1, n] that lowered files give beside the outputs: the sums of n of them.

    A sum is NaN where an element is, so that nothing has to read whole outputs to find one.
    """

    name: str
    of: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Names of float outputs."""


class Graph(Part, frozen=True, kw_only=True):
    """One network. The canonical model gives `outputs` and then `probes`; lowered files give `given`.

    Probes are inner float tensors (raw head outputs) that keep their names in every lowered file, so that
    parity can compare them where decoding would reorder near-equal scores.

    `batch` is the most looks that one run of a lowered file takes. Where it is more than 1, the first axis of
    the file's inputs and outputs is free; their shapes here, and the canonical model, are of one look.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[TensorSpec, ...] = ()
    batch: PositiveInt = 1
    nan_sums: NanSums | None = None
    canonical: str | None = None
    files: tuple[GraphFile, ...] = ()

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """What lowered files give: the outputs, and `nan_sums` where they have it."""
        if self.nan_sums is None:
            return self.outputs
        looks = self.outputs[0].shape[0]
        shape = (looks, len(self.nan_sums.of))
        return (*self.outputs, TensorSpec(name=self.nan_sums.name, dtype=DType.FLOAT32, shape=shape))


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
    graph: str = "main"


class RealisedPrecision(Part, frozen=True, kw_only=True):
    """What a builder made of it: number of engine layers by the widest type they compute in."""

    target: Target
    tool: str
    device: str
    layers: dict[str, int]
    weighted: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """Nodes with weights by the type of their factors; `unknown` where the engine does not tell."""
    graph: str = "main"

    def counts(self) -> str:
        """E.g. `nodes with weights: 83 int8, 1 fp16; layers: 89 fp32, 83 int8`."""
        parts = (("nodes with weights", self.weighted), ("layers", self.layers))
        return "; ".join(
            f"{what}: {', '.join(f'{number} {kind}' for kind, number in found.items())}"
            for what, found in parts
            if found
        )


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
    tables: dict[str, str]
    """Path of the table of each graph."""
    sample_count: PositiveInt
    seed: int
    samples_sha256: Sha256
    """Over the sample list: one `<sha256 of the file>  <name>` line each, in order. A model of crops adds
    two spaces and the four sides of the box, x1 y1 x2 y2."""
    preprocess_sha256: Sha256
    """Over the JSON of the preprocessing that fed the observers."""


class GoldenFrame(Part, frozen=True, kw_only=True):
    """One frame and what the training definition gave for it.

    `image` is a PNG of the source frame; `tensors` an .npz of the outputs and probes of the graph that ran,
    the looks at the frame stacked along the batch axis; `result` the decoded result as its kind's records
    (COCO's form where the kind has one) in source coordinates.
    """

    image: str
    tensors: str
    result: str
    boxes: tuple[tuple[Coordinate, Coordinate, Coordinate, Coordinate], ...] = ()
    """Where the network looks, x1, y1, x2, y2 in source pixels; none for models of whole frames."""


class Golden(Part, frozen=True, kw_only=True):
    """A clip of consecutive frames that starts without state; a single picture where a model has none."""

    frames: Annotated[tuple[GoldenFrame, ...], Meta(min_length=1)]


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
    """Largest loss in the task's metric (box AP, mask AP, PQ, PCK), in absolute units of 0..1."""


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

    @property
    def task(self) -> str:
        """What the results are an answer to; it follows from their kind."""
        return self.postprocess.task

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
