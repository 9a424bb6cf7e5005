"""Which metric judges which task."""

from __future__ import annotations

from edgewise.models.tasks.instances.metric import MaskApMetric
from edgewise.models.tasks.keypoints.metric import KeypointAccuracy
from edgewise.models.tasks.metric import Metric
from edgewise.models.tasks.panoptic.metric import PanopticQuality
from edgewise.runtime.contract.manifest import Task
from edgewise.runtime.system.errors import DatasetError

_METRICS: dict[Task, Metric] = {
    Task.INSTANCES: MaskApMetric(),
    Task.PANOPTIC: PanopticQuality(),
    Task.KEYPOINTS: KeypointAccuracy(),
}


def metric_of(task: Task) -> Metric:
    """The metric of a task: mask AP, PQ or PCK@0.1.

    Raises:
        DatasetError: The task has none yet.
    """
    if task not in _METRICS:
        raise DatasetError(
            f"there is no metric for the task {task.value}",
            hint=f"metrics exist for {', '.join(known.value for known in _METRICS)}",
        )
    return _METRICS[task]
