"""Panoptic segmentation as a task."""

from edgewise.models.tasks.panoptic.dataset import CocoPanoptic
from edgewise.models.tasks.panoptic.metric import PanopticQuality
from edgewise.models.tasks.task import Task

PANOPTIC = Task("panoptic", CocoPanoptic, PanopticQuality())
