"""How much of a precision's budget a graph uses up, on frames that it was not calibrated on.

The figures and limits are those that the self test and `edgewise parity` judge by: probes, decoded results,
and with an annotated dataset the task's metric. FP32 is the reference. 1 means that one limit is just
reached.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.bundle.goldens import Picture
from edgewise.exporter.graph.numerics import GraphRunner, Tensors, network_inputs
from edgewise.exporter.graph.passes import expose
from edgewise.runtime.compare.checks import Check, budget_checks, tensor_checks, tensor_level
from edgewise.runtime.compare.matching import (
    Detections,
    Matching,
    display_threshold,
    margin_of,
    match,
    pooled,
)
from edgewise.runtime.contract.manifest import Budget, Graph, Manifest, Precision
from edgewise.runtime.decoding.decode import postprocess
from edgewise.runtime.frames.looks import FrameBoxes, Views, views_of

if TYPE_CHECKING:
    import onnx

    from edgewise.models.data.dataset import Dataset
    from edgewise.models.tasks.task import Task
    from edgewise.runtime.results.result import Result


class Role(enum.Enum):
    """What a sample is judged as. Results are pooled over each role, and each must keep the budget."""

    HELD_OUT = "held-out images"
    """As parity does: probes, decoded results."""
    GOLDEN = "goldens"
    """As the self test on a device does, which sees no probes: a plain golden's are noise to eight bits."""


@dataclass(frozen=True, eq=False)
class Sample:
    """The looks at one frame, and the graph's input for each."""

    views: Views
    inputs: Sequence[Tensors]
    role: Role = Role.HELD_OUT

    @classmethod
    def of_picture(
        cls, manifest: Manifest, graph: Graph, picture: Picture, role: Role = Role.HELD_OUT
    ) -> Sample:
        views = views_of(manifest, picture.frame, picture.boxes)
        return cls(views, network_inputs(graph, views), role)


@dataclass(frozen=True, eq=False)
class Reference:
    """What a graph gave for a sample: of every look the tensors that its role compares, and the result."""

    looks: Sequence[Tensors]
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
            for look, (own, other) in enumerate(zip(wanted.looks, found.looks, strict=True), start=1):
                where = name if len(wanted.looks) == 1 else f"{name}, look {look}"
                checks += self._tensor_level(where, sample.role, own, other, budget)
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
        metric = f" and by {task.name} on {len(task.dataset)}" if task is not None else ""
        return f"{len(self._samples)} images{metric}"

    def _task_of(self, precision: Precision) -> TaskMetric | None:
        return self._task if precision is Precision.INT8 else None

    def _exposed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return expose(model, [spec.name for spec in self._graph.probes])

    def _run(self, runner: GraphRunner, sample: Sample) -> Reference:
        looks = [runner.run(inputs) for inputs in sample.inputs]
        result = postprocess(self._manifest, sample.views, looks)
        specs = self._graph.outputs if sample.role is Role.GOLDEN else self._compared
        compared = [{spec.name: look[spec.name] for spec in specs} for look in looks]
        return Reference(compared, Detections.of_result(result))

    def _tensor_level(
        self, name: str, role: Role, wanted: Tensors, found: Tensors, budget: Budget
    ) -> list[Check]:
        if role is Role.GOLDEN or not self._graph.probes:
            return tensor_level(name, self._manifest, self._graph, wanted, found, budget)
        return tensor_checks(name, self._compared, wanted, found, budget)


def share_of_limit(check: Check) -> float:
    """Distance from perfect agreement over the distance that is allowed; NaN counts as infinite."""
    value, limit = (1.0 - check.value, 1.0 - check.limit) if check.at_least else (check.value, check.limit)
    if np.isnan(value):
        return float("inf")
    if value <= 0.0:
        return 0.0
    return value / limit if limit > 0.0 else float("inf")


@dataclass(frozen=True, eq=False)
class TaskMetric:
    """The metric of a task on an annotated dataset, through the runtime's own pre- and postprocessing."""

    task: Task
    dataset: Dataset

    @classmethod
    def of_dataset(cls, name: str, path: Path) -> TaskMetric:
        """Open the annotations of a task: its file of a folder of scenes, or a COCO file.

        Raises:
            DatasetError: The dataset is missing or empty, or there is no such task.
        """
        from edgewise.models.measuring.tasks import task_of

        task = task_of(name)
        return cls(task, task.dataset.open(path))

    @property
    def name(self) -> str:
        return self.task.metric.name

    @property
    def images(self) -> list[Path]:
        """The files of the dataset's pictures."""
        return [self.dataset.path(index) for index in range(len(self.dataset))]

    def measure(self, manifest: Manifest, runner: GraphRunner) -> float:
        """The metric of a graph's results on every picture."""
        from edgewise.models.measuring.evaluation import evaluate

        graph = next(iter(manifest.graphs.values()))

        def predict(frame: NDArray[np.uint8], boxes: FrameBoxes | None) -> Result:
            views = views_of(manifest, frame, boxes)
            return postprocess(
                manifest, views, [runner.run(inputs) for inputs in network_inputs(graph, views)]
            )

        return evaluate(predict, self.dataset, self.task, range(len(self.dataset))).value
