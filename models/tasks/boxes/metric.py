"""COCO's box average precision."""

from __future__ import annotations

from edgewise.models.tasks.average_precision import AveragePrecision
from edgewise.models.tasks.boxes.dataset import CocoDetections
from edgewise.runtime.kinds.boxes.result import Boxes

BOX_AP = AveragePrecision(
    name="box AP",
    overlap="bbox",
    wants=CocoDetections,
    found=Boxes,
    truth="boxes as ground truth",
    hint="give a folder with instances.json and images/",
)
