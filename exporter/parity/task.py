"""Level 3: the task's metric of every stage on the dataset's annotations."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import msgspec

from edgewise.exporter.parity.report import finite
from edgewise.models.datasets import CocoInstances
from edgewise.models.evaluation import mask_ap
from edgewise.runtime.errors import DatasetError, ParityError
from edgewise.runtime.manifest import Manifest, Task

METRIC = "mask AP"


def check_task(manifest: Manifest) -> None:
    """Raise ParityError where results of this task cannot be compared."""
    if manifest.task is not Task.INSTANCES:
        raise ParityError(
            f"parity decodes and measures instances, not the task {manifest.task.value!r}",
            where=manifest.name,
            hint="`edgewise selftest` compares the bundle's golden samples",
        )


def check_categories(manifest: Manifest, dataset: CocoInstances) -> None:
    """Raise DatasetError unless the dataset knows every class of the bundle by the same id and name."""
    known = {label.id: label.name for label in dataset.labels}
    for label in manifest.classes:
        if known.get(label.id) != label.name:
            found = (
                f"calls {label.id} {known[label.id]!r}"
                if label.id in known
                else f"has no category {label.id}"
            )
            raise DatasetError(
                f"the dataset {found}, the bundle's class {label.id} is {label.name!r}",
                where=str(dataset.json),
                hint="give a dataset with the categories that the model was trained on",
            )


class _Object(msgspec.Struct, frozen=True):
    image_id: int
    iscrowd: int = 0


class _Objects(msgspec.Struct, frozen=True):
    annotations: list[_Object]


def objects_per_image(dataset: CocoInstances) -> Counter[int]:
    """Image id -> annotated objects, crowds left out."""
    found = msgspec.json.decode(dataset.json.read_bytes(), type=_Objects)
    return Counter(entry.image_id for entry in found.annotations if not entry.iscrowd)


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
    dataset: CocoInstances, image_ids: list[int], results: ResultFile
) -> dict[str, float | None]:
    """Mask AP and its parts, 0..1; None where there is no ground truth of that kind."""
    found = mask_ap(dataset.json, results.read(), image_ids=image_ids)
    return {
        METRIC: finite(found.ap),
        **{
            f"{METRIC} {field.name.removeprefix('ap')}": finite(getattr(found, field.name))
            for field in dataclasses.fields(found)
            if field.name not in ("ap", "images", "classes")
        },
    }
