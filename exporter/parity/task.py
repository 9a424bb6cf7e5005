"""What parity asks of a task: its words, its dataset's vocabulary, and the metric of every stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from edgewise.exporter.parity.report import finite
from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.metric import Metric
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.system.errors import DatasetError, ParityError


@dataclass(frozen=True)
class TaskWords:
    """What reports call the things of a task, and how alike two of them are."""

    thing: str
    things: str
    similarity: str


_WORDS = {
    "instances": TaskWords("instance", "instances", "mask IoU"),
    "panoptic": TaskWords("segment", "segments", "segment IoU"),
    "keypoints": TaskWords("person", "people", "OKS"),
}


def words_of(manifest: Manifest) -> TaskWords:
    """Raise ParityError where results of this task cannot be compared."""
    if manifest.task not in _WORDS:
        raise ParityError(
            f"parity cannot decode and measure results of the task {manifest.task!r}",
            where=manifest.name,
            hint="`edgewise selftest` compares the bundle's golden samples",
        )
    return _WORDS[manifest.task]


def check_vocabulary(manifest: Manifest, dataset: Dataset) -> None:
    """Raise DatasetError unless the dataset knows every class of the bundle, and its keypoints, alike."""
    known = {label.id: label for label in dataset.vocabulary.classes}
    for label in manifest.classes:
        found = known.get(label.id)
        if found is None:
            _refuse(f"has no category {label.id}, the bundle's class {label.name!r}", dataset)
        elif (found.name, found.kind) != (label.name, label.kind):
            _refuse(
                f"calls {label.id} {found.name!r} ({found.kind.value}), the bundle's class {label.id} is "
                f"{label.name!r} ({label.kind.value})",
                dataset,
            )
    own, other = manifest.keypoints, dataset.vocabulary.keypoints
    if own is not None and (other is None or own.names != other.names):
        theirs = "none" if other is None else ", ".join(other.names)
        _refuse(f"has the keypoints {theirs}; the bundle has {', '.join(own.names)}", dataset)


def _refuse(problem: str, dataset: Dataset) -> None:
    raise DatasetError(
        f"the dataset {problem}",
        where=str(dataset.json),
        hint="give a dataset with the categories and keypoints that the model was trained on",
    )


class ResultFile:
    """COCO results of one stage, written to disk image by image: memory does not grow with the images."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[bytes] = path.open("wb")

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        for record in records:
            self._stream.write(msgspec.json.encode(record) + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """All records; the stage that is being measured is the only one in memory."""
        self._stream.close()
        with self._path.open("rb") as stream:
            return [msgspec.json.decode(line) for line in stream]

    def close(self) -> None:
        self._stream.close()


def task_metrics(
    metric: Metric, dataset: Dataset, image_ids: list[int], results: ResultFile
) -> dict[str, float | None]:
    """The metric and its parts, 0..1, those of single classes and keypoints left out.

    None where there is no ground truth of that kind.
    """
    found = metric.measure(dataset, results.read(), image_ids=image_ids)
    vocabulary = dataset.vocabulary
    single = {label.name for label in vocabulary.classes}
    single.update(vocabulary.keypoints.names if vocabulary.keypoints is not None else ())
    return {
        found.name: finite(found.value),
        **{name: finite(value) for name, value in found.parts.items() if name not in single},
    }
