"""Object detection as a task."""

from edgewise.models.tasks.boxes.dataset import CocoDetections
from edgewise.models.tasks.boxes.metric import BOX_AP
from edgewise.models.tasks.task import Task

BOXES = Task("boxes", CocoDetections, BOX_AP)
