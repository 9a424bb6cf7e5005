"""The tasks by name, and one that comes from outside and knows no boxes, scores or classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgewise.models import registry
from edgewise.models.measuring.evaluation import evaluate
from edgewise.models.measuring.tasks import TASKS, register_task, task_of
from edgewise.models.scenes import write_dataset
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.task import Measured, Task
from edgewise.runtime.system.errors import DatasetError


def test_every_row_is_found_by_its_name_and_measures_its_own_truth(tmp_path: Path) -> None:
    scenes = write_dataset(tmp_path / "scenes", 6, 5, 96)
    for name, metric in (
        ("boxes", "box AP"),
        ("instances", "mask AP"),
        ("panoptic", "PQ"),
        ("keypoints", "PCK@0.1"),
        ("people", "OKS AP"),
        ("surface", "chart GPS"),
    ):
        task = task_of(name)
        dataset = task.dataset.open(scenes)
        measuring = task.metric.begin(dataset)
        for index in range(len(dataset)):
            measuring.add(index, dataset.truth(index))
        measured = measuring.value()
        assert (measured.name, task.name, measured.images) == (metric, name, 6)
        assert measured.value == pytest.approx(1.0)


def test_every_model_has_a_task() -> None:
    assert {registry.find(name).task for name in registry.names()} <= TASKS.keys()


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="no metric for the task moods") as caught:
        task_of("moods")
    assert caught.value.hint == "known tasks: boxes, instances, panoptic, keypoints, people, faces, surface"


@dataclass(frozen=True)
class Counted:
    """How many things are in a frame."""

    count: int


@dataclass
class Closeness:
    """Share of the images whose count is right."""

    name: str = "exact counts"
    dataset: Any = None
    right: list[bool] = field(default_factory=list)

    def begin(self, dataset: Any) -> Closeness:
        return Closeness(self.name, dataset)

    def add(self, index: int, result: Any) -> None:
        self.right.append(result.count == len(self.dataset.truth(index)))

    def value(self) -> Measured:
        return Measured(self.name, sum(self.right) / len(self.right), images=len(self.right))


@pytest.fixture
def counting() -> Iterator[Task]:
    task = Task("counting", CocoInstances, Closeness())
    register_task(task)
    yield task
    del TASKS[task.name]


def test_a_task_from_outside_is_measured_like_any_other(counting: Task, tmp_path: Path) -> None:
    task = task_of("counting")
    assert task is counting
    dataset = task.dataset.open(write_dataset(tmp_path / "scenes", 4, 5, 96))
    truth = iter([len(dataset.truth(index)) for index in (1, 2, 3)])
    answers: list[Any] = [Counted(next(truth)), Counted(next(truth)), Counted(next(truth) + 1)]
    given = iter(answers)
    measured = evaluate(lambda frame, boxes: next(given), dataset, task, (1, 2, 3))
    assert (measured.value, measured.images) == (pytest.approx(2 / 3), 3)


def test_a_name_is_given_once(counting: Task) -> None:
    with pytest.raises(DatasetError, match="is called 'counting' already"):
        register_task(counting)
