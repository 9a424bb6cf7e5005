"""A task's metric of training definitions, through the same functions that run on the device."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.models.checkpoints.checkpoint import LoadedModel, load_model
from edgewise.models.data.dataset import Dataset
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.measuring.datasets import open_dataset
from edgewise.models.measuring.metrics import metric_of
from edgewise.models.tasks.metric import Measured
from edgewise.runtime.contract.manifest import Manifest, Provenance
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import DatasetError, EdgewiseError

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
    predictions = predict(network_of(loaded, manifest), manifest, dataset, _shown(list(indices), progress))
    records = [record for image_id, result in predictions for record in result.records(image_id)]
    ids = [dataset.images[index].id for index in indices]
    return metric_of(loaded.entry.task).measure(dataset, records, image_ids=ids)


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


def predict(
    network: Network, manifest: Manifest, dataset: Dataset, indices: Iterable[int]
) -> Iterator[tuple[int, Result]]:
    """Image id and result of any network that follows a manifest, on some images of a dataset."""
    for index in indices:
        looks = looks_of(manifest, dataset.frame(index), dataset.boxes(index))
        outputs = [network(look.tensor) for look in looks.looks]
        yield dataset.images[index].id, decode_result(manifest, looks, outputs)


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


def _shown(indices: list[int], shown: bool) -> Iterable[int]:
    if not shown:
        return indices
    from rich.console import Console
    from rich.progress import track

    return track(indices, description="evaluating", console=Console(file=sys.stderr))


def _print(measured: Measured) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", f"on {measured.images} images")
    table.add_row(measured.name, f"{measured.value:.4f}", end_section=True)
    for name, value in measured.parts.items():
        table.add_row(name, "-" if math.isnan(value) else f"{value:.4f}")
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m edgewise.models.checkpoints.evaluation CHECKPOINT DATASET`: print the metric of its task."""
    parser = argparse.ArgumentParser(
        prog="python -m edgewise.models.checkpoints.evaluation", description=main.__doc__
    )
    parser.add_argument("checkpoint", type=Path, help="a .safetensors of `edgewise train`")
    parser.add_argument("dataset", type=Path, help="COCO json of the task, or a folder with one and images/")
    parser.add_argument("--limit", type=int, help="measure on the first so many images")
    chosen = parser.parse_args(arguments)
    try:
        loaded = load_model(chosen.checkpoint)
        dataset = open_dataset(loaded.entry.task, chosen.dataset)
        measured = evaluate_module(loaded, dataset, limit=chosen.limit, progress=True)
    except EdgewiseError as error:
        sys.exit(str(error))
    _print(measured)


if __name__ == "__main__":
    main()
