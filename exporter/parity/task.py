"""What parity asks of a task: its dataset's vocabulary, and the metric of every stage."""

from __future__ import annotations

from edgewise.exporter.parity.report import finite
from edgewise.models.data.dataset import Dataset
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.tasks.task import Measured
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.system.errors import DatasetError


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


def task_metrics(measured: Measured, vocabulary: Vocabulary) -> dict[str, float | None]:
    """The metric and its parts, 0..1, those of single classes and keypoints left out.

    None where there is no ground truth of that sort.
    """
    single = {label.name for label in vocabulary.classes}
    single.update(vocabulary.keypoints.names if vocabulary.keypoints is not None else ())
    return {
        measured.name: finite(measured.value),
        **{name: finite(value) for name, value in measured.parts.items() if name not in single},
    }
