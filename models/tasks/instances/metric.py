"""COCO's mask average precision."""

from __future__ import annotations

from edgewise.models.tasks.average_precision import AveragePrecision
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.runtime.kinds.instances.result import Instances

MASK_AP = AveragePrecision(
    name="mask AP",
    overlap="segm",
    wants=CocoInstances,
    found=Instances,
    truth="instance ground truth",
    hint="give a folder with instances.json and images/",
)
