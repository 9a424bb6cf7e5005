"""How much of a precision's budget a graph uses up, on frames that it was not calibrated on.

The figures and limits are those that the self test and `edgewise parity` judge by: probes, decoded results,
and with an annotated dataset the task's metric. FP32 is the reference. 1 means that one limit is just
reached.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise.exporter.numerics import GraphRunner, Tensors
from edgewise.exporter.passes import expose
from edgewise.runtime.geometry import Geometry
from edgewise.runtime.manifest import Budget, Graph, Manifest, Precision
from edgewise.runtime.matching import Detections, Matching, display_threshold, margin_of, match, pooled
from edgewise.runtime.postprocess import postprocess
from edgewise.runtime.results import Instances
from edgewise.runtime.selftest import Check, budget_checks, tensor_checks, tensor_level
from edgewise.runtime.views import View, Views

if TYPE_CHECKING:
    import onnx


class Role(enum.Enum):
    """What a sample is judged as. Instances are pooled over each role, and each must keep the budget."""

    HELD_OUT = "held-out images"
    """As parity does: probes, decoded results."""
    GOLDEN = "goldens"
    """As the self test on a device does, which sees no probes: a plain golden's are noise to eight bits."""


@dataclass(frozen=True)
class Sample:
    """One frame as the graph's input, and the way back."""

    inputs: Tensors
    geometry: Geometry
    role: Role = Role.HELD_OUT


@dataclass(frozen=True)
class Reference:
    """What a graph gave for a sample: the tensors that its role compares, and the instances."""

    tensors: Mapping[str, np.ndarray]
    detections: Detections


class Agreement:
    """Judges graphs of one bundle against its FP32 graph.

    Args:
        manifest: Postprocessing and budgets.
        graph: Names of outputs and probes.
        fp32: The reference; outputs only.
        samples: Frames outside of the calibration set; at least one.
        task: Measures the task's metric of INT8 too; None leaves that level to `edgewise parity`.
    """

    def __init__(
        self,
        manifest: Manifest,
        graph: Graph,
        fp32: onnx.ModelProto,
        samples: Sequence[Sample],
        task: TaskMetric | None = None,
    ) -> None:
        self._manifest = manifest
        self._graph = graph
        self._samples = samples
        self._compared = graph.probes or graph.outputs
        self._task = task
        runner = GraphRunner(self._exposed(fp32))
        self._reference = [self._run(runner, sample) for sample in samples]
        self._metric = task.measure(manifest, runner) if task is not None else 0.0

    def checks(self, model: onnx.ModelProto, precision: Precision) -> list[Check]:
        """Every figure beside its limit in the budget of a precision.

        Raises:
            ExportError: ONNX Runtime refuses the graph, or it makes no tensor of a probe's name.
            ResultError: Its outputs cannot be decoded.
        """
        runner = GraphRunner(self._exposed(model))
        threshold = display_threshold(self._manifest.postprocess)
        budget = self._manifest.budget(precision)
        margin = margin_of(budget)
        checks: list[Check] = []
        matchings: dict[Role, list[Matching]] = {}
        for number, (sample, wanted) in enumerate(zip(self._samples, self._reference, strict=True)):
            found = self._run(runner, sample)
            name = f"{sample.role.value}, number {number}"
            checks += self._tensor_level(name, sample.role, wanted, found, budget)
            agreed = match(wanted.detections, found.detections, threshold=threshold, margin=margin)
            matchings.setdefault(sample.role, []).append(agreed)
        for role, members in matchings.items():
            checks += budget_checks(role.value, pooled(members), budget)
        task = self._task_of(precision)
        if task is not None:
            drop = self._metric - task.measure(self._manifest, runner)
            checks.append(Check(task.name, "drop", drop, budget.metric_drop))
        return checks

    def budget_used(self, model: onnx.ModelProto, precision: Precision) -> float:
        """The share of its limit that the worst figure uses; more than 1 breaks the budget."""
        return max(share_of_limit(check) for check in self.checks(model, precision))

    def subject(self, precision: Precision) -> str:
        """What a precision is judged on, in words."""
        task = self._task_of(precision)
        metric = f" and by {task.name} on {len(task.frames)}" if task is not None else ""
        return f"{len(self._samples)} images{metric}"

    def _task_of(self, precision: Precision) -> TaskMetric | None:
        return self._task if precision is Precision.INT8 else None

    def _exposed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return expose(model, [spec.name for spec in self._graph.probes])

    def _run(self, runner: GraphRunner, sample: Sample) -> Reference:
        tensors = runner.run(sample.inputs)
        outputs = {spec.name: tensors[spec.name] for spec in self._graph.outputs}
        result = postprocess(self._manifest, one_look(sample.inputs, sample.geometry), [outputs])
        specs = self._graph.outputs if sample.role is Role.GOLDEN else self._compared
        return Reference({spec.name: tensors[spec.name] for spec in specs}, Detections.of_result(result))

    def _tensor_level(
        self, name: str, role: Role, wanted: Reference, found: Reference, budget: Budget
    ) -> list[Check]:
        if role is Role.GOLDEN:
            decoding = self._manifest.postprocess
            return tensor_level(name, self._graph, decoding, wanted.tensors, found.tensors, budget)
        return tensor_checks(name, self._compared, wanted.tensors, found.tensors, budget)


def one_look(inputs: Tensors, geometry: Geometry) -> Views:
    """The only look at a frame, from the graph's only input."""
    (tensor,) = inputs.values()
    return Views(geometry.source_size, (View(tensor, geometry),))


def share_of_limit(check: Check) -> float:
    """Distance from perfect agreement over the distance that is allowed; NaN counts as infinite."""
    value, limit = (1.0 - check.value, 1.0 - check.limit) if check.at_least else (check.value, check.limit)
    if np.isnan(value):
        return float("inf")
    if value <= 0.0:
        return 0.0
    return value / limit if limit > 0.0 else float("inf")


@dataclass(frozen=True)
class TaskMetric:
    """Mask AP on a COCO dataset, through the runtime's own pre- and postprocessing.

    Attributes:
        annotations: The COCO file.
        frames: Image id and path of every picture.
    """

    annotations: Path
    frames: Sequence[tuple[int, Path]]
    name: str = "mask AP"

    @classmethod
    def of_dataset(cls, path: Path) -> TaskMetric:
        """A folder with `instances.json` and `images/`, or a COCO file with `images/` beside it.

        Raises:
            DatasetError: The dataset is missing or empty.
        """
        from edgewise.models.datasets import CocoInstances

        dataset = CocoInstances.open(path)
        return cls(
            dataset.json, tuple((image.id, dataset.folder / image.file_name) for image in dataset.images)
        )

    def measure(self, manifest: Manifest, runner: GraphRunner) -> float:
        """AP at IoU .50:.95."""
        from edgewise.models.evaluation import mask_ap

        graph = next(iter(manifest.graphs.values()))
        records: list[dict[str, Any]] = []
        for image_id, result in self._results(manifest, graph, runner):
            records += result.to_coco(image_id=image_id)
        ids = [image_id for image_id, _ in self.frames]
        return mask_ap(self.annotations, records, image_ids=ids).ap

    def _results(
        self, manifest: Manifest, graph: Graph, runner: GraphRunner
    ) -> Iterable[tuple[int, Instances]]:
        from edgewise.exporter.goldens import network_input, read_frames

        for image_id, path in self.frames:
            inputs, geometry = network_input(manifest.preprocess, graph, read_frames([path])[0])
            yield image_id, postprocess(manifest, one_look(inputs, geometry), [runner.run(inputs)])
