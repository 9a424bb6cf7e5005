"""Which metric judges which task."""

from __future__ import annotations

from edgewise.models.tasks.instances.metric import MaskApMetric
from edgewise.models.tasks.keypoints.metric import KeypointAccuracy
from edgewise.models.tasks.metric import Metric
from edgewise.models.tasks.panoptic.metric import PanopticQuality
from edgewise.runtime.system.errors import DatasetError

_METRICS: dict[str, Metric] = {
    "instances": MaskApMetric(),
    "panoptic": PanopticQuality(),
    "keypoints": KeypointAccuracy(),
}


def metric_of(task: str) -> Metric:
    """The metric of a task: mask AP, PQ or PCK@0.1.

    Raises:
        DatasetError: The task has none yet.
    """
    if task not in _METRICS:
        raise DatasetError(
            f"there is no metric for the task {task}",
            hint=f"metrics exist for {', '.join(_METRICS)}",
        )
    return _METRICS[task]
