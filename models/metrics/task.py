"""Which metric judges which task."""

from __future__ import annotations

from edgewise.models.metrics.keypoint_accuracy import KeypointAccuracy
from edgewise.models.metrics.mask_ap import MaskApMetric
from edgewise.models.metrics.measured import Metric
from edgewise.models.metrics.panoptic_quality import PanopticQuality
from edgewise.runtime.errors import DatasetError
from edgewise.runtime.manifest import Task

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
