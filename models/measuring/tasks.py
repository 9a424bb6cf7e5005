"""The tasks that models are trained for and measured by."""

from __future__ import annotations

from edgewise.models.tasks.boxes.row import BOXES
from edgewise.models.tasks.instances.row import INSTANCES
from edgewise.models.tasks.keypoints.row import FACES, KEYPOINTS, PEOPLE
from edgewise.models.tasks.panoptic.row import PANOPTIC
from edgewise.models.tasks.surface.row import SURFACE
from edgewise.models.tasks.task import Task
from edgewise.runtime.system.errors import DatasetError

TASKS: dict[str, Task] = {
    task.name: task for task in (BOXES, INSTANCES, PANOPTIC, KEYPOINTS, PEOPLE, FACES, SURFACE)
}


def task_of(name: str) -> Task:
    """The row of a task.

    Raises:
        DatasetError: There is neither a dataset format nor a metric for it; the message lists the known ones.
    """
    if name not in TASKS:
        raise DatasetError(
            f"there is no dataset format and no metric for the task {name}",
            hint=f"known tasks: {', '.join(TASKS)}",
        )
    return TASKS[name]


def register_task(task: Task) -> None:
    """Make a task known by its name, as those above are; DatasetError where the name is taken."""
    if task.name in TASKS:
        raise DatasetError(f"a task is called {task.name!r} already", hint="choose another name")
    TASKS[task.name] = task
