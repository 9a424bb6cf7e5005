"""A task's metric of training definitions, through the same functions that run on the device."""

from __future__ import annotations

from edgewise.models.checkpoints.checkpoint import LoadedModel
from edgewise.models.data.dataset import Dataset
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.measuring.evaluation import evaluate
from edgewise.models.measuring.tasks import task_of
from edgewise.models.measuring.torch_runner import TorchRunner
from edgewise.models.tasks.task import Measured
from edgewise.runtime.contract.manifest import Manifest, Provenance
from edgewise.runtime.system.errors import DatasetError
from edgewise.runtime.walk.walk import Walk


def evaluate_module(
    loaded: LoadedModel, dataset: Dataset, *, limit: int | None = None, progress: bool = False
) -> Measured:
    """The task's metric of a training definition in FP32 torch, with the runtime's pre- and postprocessing.

    Models of crops look at the annotated boxes.

    Args:
        loaded: The model.
        dataset: Images and ground truth of the model's task; its classes must be the model's.
        limit: Measure on the first so many images only.
        progress: Whether to show a progress bar on the terminal.

    Raises:
        DatasetError: Other classes or keypoints than the model's, or an image that cannot be read.
    """
    refuse_other_names(loaded.meta.vocabulary, dataset)
    manifest = loaded.entry.manifest(
        loaded.meta.vocabulary, Provenance(definition=f"registry:{loaded.entry.name}")
    )
    indices = range(len(dataset) if limit is None else min(limit, len(dataset)))
    walk = torch_walk(loaded, manifest)
    return evaluate(walk, dataset, task_of(loaded.entry.task), indices, progress=progress)


def torch_walk(loaded: LoadedModel, manifest: Manifest) -> Walk:
    """Frames through the deploy module of a training definition and the device's own functions."""
    (name,) = manifest.schedule.graphs
    return Walk(manifest, {name: TorchRunner(loaded.entry.deploy(loaded.module), manifest.graphs[name])})


def refuse_other_names(known: Vocabulary, dataset: Dataset) -> None:
    """Raise DatasetError where a dataset's classes or keypoints are not the model's.

    Compared by category id, name and kind, and by the names of the keypoints.
    """
    names, others = _names(known), _names(dataset.vocabulary)
    if names != others:
        raise DatasetError(
            "the dataset's categories are not the model's",
            where=str(dataset.json),
            hint=f"the model knows {', '.join(label.name for label in known.classes)}",
        )


def _names(vocabulary: Vocabulary) -> tuple[object, ...]:
    points = () if vocabulary.keypoints is None else vocabulary.keypoints.names
    return {(label.id, label.name, label.kind) for label in vocabulary.classes}, points
