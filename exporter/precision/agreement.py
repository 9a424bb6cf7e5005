"""How much of a precision's budget graphs use up, on frames that they were not calibrated on.

The figures and limits are those that the self test and `edgewise parity` judge by: probes, decoded results,
and with an annotated dataset the task's metric. FP32 is the reference. 1 means that one limit is just
reached.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise.exporter.graph.numerics import GraphRunner, Tensors
from edgewise.exporter.graph.passes import expose
from edgewise.runtime.compare.checks import Check, Level, decoded_checks, output_checks, tensor_checks
from edgewise.runtime.compare.matching import MatchTally, margin_of, match
from edgewise.runtime.contract.manifest import Budget, Graph, Manifest, Precision
from edgewise.runtime.decoding.decode import decode_result
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.results.result import Result, is_settled
from edgewise.runtime.system.errors import ResultError
from edgewise.runtime.walk.extremes import extreme_checks
from edgewise.runtime.walk.walk import Prepared, Walk

if TYPE_CHECKING:
    import onnx

    from edgewise.models.data.dataset import Dataset
    from edgewise.models.tasks.task import Task

Models = Mapping[str, "onnx.ModelProto"]
"""Graph name -> model."""


class Role(enum.Enum):
    """What a clip is judged as. Results are pooled over each role, and each must keep the budget."""

    HELD_OUT = "held-out images"
    """As parity does: probes, decoded results."""
    GOLDEN = "goldens"
    """As the self test on a device does, which sees no probes: a plain golden's are noise to eight bits."""


@dataclass(frozen=True, eq=False)
class PreparedClip:
    """The preprocessed frames of a clip that starts without state."""

    frames: Sequence[Prepared]
    role: Role = Role.HELD_OUT


@dataclass(frozen=True, eq=False)
class Reference:
    """What the FP32 graphs gave for a frame: of every look the tensors, and the result."""

    looks: Sequence[Tensors]
    result: Result


class Agreement:
    """Judges graphs of one bundle against its FP32 graphs.

    Args:
        manifest: Kind of result, schedule and budgets.
        fp32: The reference, of every graph that the schedule runs; outputs only.
        clips: Frames outside of the calibration set; at least one.
        task: Measures the task's metric of INT8 too; None leaves that level to `edgewise parity`.
    """

    def __init__(
        self,
        manifest: Manifest,
        fp32: Models,
        clips: Sequence[PreparedClip],
        task: TaskMetric | None = None,
    ) -> None:
        self._manifest = manifest
        self._kind = kind_of(manifest)
        self._fp32 = fp32
        self._clips = clips
        self._task = task
        walk = self._walk(fp32)
        self._reference = [[self._run(walk, frame) for frame in _fresh(walk, clip)] for clip in clips]
        self._metric = task.measure(walk) if task is not None else 0.0

    @property
    def unsettled(self) -> int:
        """On how many frames the reference's suppression ran out of rounds."""
        return sum(not is_settled(frame.result) for frames in self._reference for frame in frames)

    def checks(self, models: Models, precision: Precision) -> list[Check]:
        """Every figure beside its limit in the budget of a precision, and that extreme frames give results.

        Args:
            models: The graphs to judge; those that are left out run in FP32.

        Raises:
            ExportError: ONNX Runtime refuses a graph, or it makes no tensor of a probe's name.
            ResultError: Outputs that cannot be decoded.
        """
        walk = self._walk({**self._fp32, **models})
        return [*self._on_clips(walk, precision), *self._beside_clips(walk, precision)]

    def budget_used(self, models: Models, precision: Precision) -> float:
        """The share of its limit that the worst figure uses; more than 1 breaks the budget.

        Where the clips break it, neither extreme frames nor the task's dataset are run: a search tries many
        graphs that miss. Infinite where a result cannot be decoded: that is what a search has to find a way
        around, not its end.
        """
        walk = self._walk({**self._fp32, **models})
        try:
            used = _worst(self._on_clips(walk, precision))
            return used if used > 1.0 else max(used, _worst(self._beside_clips(walk, precision)))
        except ResultError:
            return inf

    def _on_clips(self, walk: Walk, precision: Precision) -> list[Check]:
        """Tensors and results of every frame against the reference."""
        budget = self._manifest.budget(precision)
        shown, margin = self._manifest.postprocess.shown_from, margin_of(budget)
        checks: list[Check] = []
        tallies: dict[Role, MatchTally] = {}
        number = 0
        for clip, references in zip(self._clips, self._reference, strict=True):
            for frame, wanted in zip(_fresh(walk, clip), references, strict=True):
                found = self._run(walk, frame)
                name = f"{clip.role.value}, number {number}"
                graph = self._manifest.graphs[frame.graph]
                for look, (own, other) in enumerate(zip(wanted.looks, found.looks, strict=True), start=1):
                    where = name if len(wanted.looks) == 1 else f"{name}, look {look}"
                    checks += self._tensor_level(where, clip.role, graph, own, other, budget)
                agreed = match(self._kind, wanted.result, found.result, threshold=shown, margin=margin)
                tallies.setdefault(clip.role, MatchTally()).add(agreed)
                number += 1
        for role, tally in tallies.items():
            checks += decoded_checks(role.value, tally, budget)
        return checks

    def _beside_clips(self, walk: Walk, precision: Precision) -> list[Check]:
        """Whether extreme frames give results, and the task's metric."""
        checks = list(extreme_checks(walk))
        task = self._task_of(precision)
        if task is not None:
            drop, limit = self._metric - task.measure(walk), self._manifest.budget(precision).metric_drop
            checks.append(
                Check(level=Level.METRIC, figure="drop", value=drop, limit=limit, subject=task.name)
            )
        return checks

    def subject(self, precision: Precision) -> str:
        """What a precision is judged on, in words."""
        task = self._task_of(precision)
        metric = f" and by {task.name} on {len(task.dataset)}" if task is not None else ""
        return f"{sum(len(clip.frames) for clip in self._clips)} images{metric}"

    def _task_of(self, precision: Precision) -> TaskMetric | None:
        return self._task if precision is Precision.INT8 else None

    def _walk(self, models: Models) -> Walk:
        graphs = self._manifest.graphs
        exposed = {
            name: expose(model, [spec.name for spec in graphs[name].probes]) for name, model in models.items()
        }
        return Walk(self._manifest, {name: GraphRunner(model) for name, model in exposed.items()})

    def _run(self, walk: Walk, frame: Prepared) -> Reference:
        inferred = walk.infer(frame)
        # A NaN is a figure that breaks its limit here, not the end of a search.
        result = decode_result(self._manifest, inferred.looks, inferred.outputs)
        return Reference(inferred.outputs, result)

    def _tensor_level(
        self, name: str, role: Role, graph: Graph, wanted: Tensors, found: Tensors, budget: Budget
    ) -> list[Check]:
        if role is Role.HELD_OUT and graph.probes:
            return tensor_checks(name, graph.probes, wanted, found, budget)
        outputs = {spec.name: found[spec.name] for spec in graph.outputs}
        return output_checks(name, self._manifest, graph, wanted, outputs, budget)


def _worst(checks: Sequence[Check]) -> float:
    """The share of its limit that the worst figure uses."""
    return max((check.share_of_limit for check in checks), default=0.0)


def _fresh(walk: Walk, clip: PreparedClip) -> Sequence[Prepared]:
    """The frames of a clip, of which the next walk is to be the first."""
    walk.reset()
    return clip.frames


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

    def measure(self, walk: Walk) -> float:
        """The metric of a walk's results on every picture."""
        from edgewise.models.measuring.evaluation import evaluate

        walk.reset()
        return evaluate(walk, self.dataset, self.task, range(len(self.dataset))).value
