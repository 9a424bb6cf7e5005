"""A task's metric of training definitions, through the same functions that run on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.models.checkpoints.checkpoint import LoadedModel
from edgewise.models.data.dataset import Dataset
from edgewise.models.data.example import Image
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.measuring.evaluation import Predict, evaluate
from edgewise.models.measuring.tasks import task_of
from edgewise.models.tasks.task import Measured
from edgewise.runtime.contract.manifest import Manifest, Provenance
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import DatasetError

Network = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]]
"""uint8 [1, h, w, 3] -> the graph's outputs by name."""


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
    predict = predictor(network_of(loaded, manifest), manifest)
    return evaluate(predict, dataset, task_of(loaded.entry.task), indices, progress=progress)


def network_of(loaded: LoadedModel, manifest: Manifest) -> Network:
    """The deploy module of a training definition as a function on arrays; outputs and probes by name."""
    names = [spec.name for graph in (manifest.graphs["main"],) for spec in (*graph.outputs, *graph.probes)]
    deployed = loaded.entry.deploy(loaded.module).eval()
    device = next(loaded.module.parameters()).device

    def network(tensor: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            outputs = deployed(torch.from_numpy(tensor).to(device))
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return {name: output.cpu().numpy() for name, output in zip(names, outputs, strict=True)}

    return network


def predictor(network: Network, manifest: Manifest) -> Predict:
    """What any network that follows a manifest finds in a frame, through the device's own functions."""

    def predict(frame: Image, boxes: FrameBoxes | None) -> Result:
        looks = looks_of(manifest, frame, boxes)
        return decode_result(manifest, looks, [network(look.tensor) for look in looks.looks])

    return predict


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
