"""Instance segmentation as a task."""

from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.instances.metric import MASK_AP
from edgewise.models.tasks.task import Task

INSTANCES = Task("instances", CocoInstances, MASK_AP)
