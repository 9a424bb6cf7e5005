"""A task's metric of anything that gives a result for a frame."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from edgewise.models.data.dataset import Dataset
from edgewise.models.data.example import Image
from edgewise.models.tasks.task import Measured, Task
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.results.result import Result, is_settled

Predict = Callable[[Image, FrameBoxes | None], Result]
"""A frame (uint8 [h, w, 3] BGR) and where to look in it -> what was found."""


def evaluate(
    predict: Predict, dataset: Dataset, task: Task, indices: Sequence[int], *, progress: bool = False
) -> Measured:
    """Measure what is found in some images of a dataset; models of crops look at the annotated boxes.

    Args:
        predict: What is measured.
        dataset: Images and ground truth of the task.
        task: Whose metric judges.
        indices: Positions in the dataset, each once.
        progress: Whether to show a progress bar on the terminal.

    Raises:
        DatasetError: An image that cannot be read, or as `Measuring.add` and `Measuring.value`.
    """
    measuring = task.metric.begin(dataset)
    unsettled = 0
    for index in _shown(indices, progress):
        result = predict(dataset.frame(index), dataset.boxes(index))
        unsettled += not is_settled(result)
        measuring.add(index, result)
    return replace(measuring.value(), unsettled=unsettled)


def _shown(indices: Sequence[int], shown: bool) -> Iterable[int]:
    if not shown:
        return indices
    from rich.console import Console
    from rich.progress import track

    return track(indices, description="evaluating", console=Console(file=sys.stderr))
