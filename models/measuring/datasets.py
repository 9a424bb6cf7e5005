"""The dataset that a task is trained on and measured by."""

from __future__ import annotations

from pathlib import Path

from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.panoptic.dataset import CocoPanoptic
from edgewise.runtime.system.errors import DatasetError

_FORMS: dict[str, type[CocoInstances] | type[CocoPanoptic] | type[CocoKeypoints]] = {
    "instances": CocoInstances,
    "panoptic": CocoPanoptic,
    "keypoints": CocoKeypoints,
}


def open_dataset(task: str, data: Path, images: Path | None = None, *, keep: bool = False) -> Dataset:
    """Open the annotations of a task.

    Args:
        task: Of the model.
        data: A COCO annotation file, or a folder with the task's file (`instances.json`, `panoptic.json` or
            `keypoints.json`) and `images/`.
        images: The image folder; by default `images/` beside the annotation file, or its own folder.
        keep: Keep decoded images in memory, for training over many epochs.

    Raises:
        DatasetError: No datasets are known for the task, or the files cannot be used.
    """
    if task not in _FORMS:
        raise DatasetError(
            f"there is no dataset format for the task {task}",
            where=str(data),
            hint=f"datasets exist for {', '.join(_FORMS)}",
        )
    return _FORMS[task].open(data, images, keep=keep)
