"""Surfaces of people as a task."""

from edgewise.models.tasks.surface.dataset import CocoSurfaces
from edgewise.models.tasks.surface.metric import SURFACE_AGREEMENT
from edgewise.models.tasks.task import Task

SURFACE = Task("surface", CocoSurfaces, SURFACE_AGREEMENT)
