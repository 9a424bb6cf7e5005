"""Evaluation of panoptic and keypoint models: what knows the truth scores high through the whole runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import CheckpointMeta, LoadedModel
from edgewise.models.checkpoints.evaluation import evaluate_module, refuse_other_names
from edgewise.models.data.augment import swapped
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.measuring.evaluation import evaluate
from edgewise.models.measuring.tasks import task_of
from edgewise.models.scenes import write_dataset
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.keypoints.row import KEYPOINTS
from edgewise.models.tasks.panoptic.dataset import CocoPanoptic
from edgewise.models.tasks.panoptic.row import PANOPTIC
from edgewise.models.tasks.task import Measured, Task
from edgewise.runtime.contract.manifest import Manifest, Provenance
from edgewise.runtime.frames.preprocessing import crop_geometry
from edgewise.runtime.system.errors import DatasetError

from .scripted_walk import scripted_walk

Outputs = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("tasks") / "scenes", 10, 8, 192)


@pytest.mark.parametrize("task", ["instances", "keypoints"])
def test_the_truth_scores_one_however_annotations_are_numbered(
    scenes: Path, tmp_path: Path, task: str
) -> None:
    content = json.loads((scenes / f"{task}.json").read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number
        annotation.pop("area")
    (tmp_path / "from_zero.json").write_text(json.dumps(content))
    row = task_of(task)
    dataset = row.dataset.open(tmp_path / "from_zero.json", scenes / "images")
    measuring = row.metric.begin(dataset)
    for index in range(len(dataset)):
        measuring.add(index, dataset.truth(index))
    measured = measuring.value()
    assert measured.parts.get("OKS AP", measured.value) > 0.9999


def _manifest(name: str, vocabulary: Vocabulary) -> Manifest:
    entry = registry.find(name).fit(vocabulary)
    return entry.manifest(vocabulary, Provenance(definition="test"))


def _measured(outputs: Iterator[Outputs], manifest: Manifest, dataset: Any, task: Task) -> Measured:
    predict = scripted_walk(lambda _: next(outputs), manifest)
    return evaluate(predict, dataset, task, range(len(dataset)))


@pytest.mark.parametrize("flip_test", [False, True])
def test_true_heatmaps_lead_back_to_the_points(scenes: Path, flip_test: bool) -> None:
    dataset = CocoKeypoints.open(scenes)
    manifest = _manifest("hourglass-tiny", dataset.vocabulary)
    decoding = msgspec.structs.replace(manifest.postprocess, flip_test=flip_test)
    manifest = msgspec.structs.replace(manifest, postprocess=decoding)
    _, _, rows, columns = manifest.graphs["main"].outputs[0].shape
    y, x = np.mgrid[:rows, :columns] + 0.5

    def outputs() -> Iterator[Outputs]:
        for index in range(len(dataset)):
            size = (dataset.images[index].height, dataset.images[index].width)
            boxes = dataset.boxes(index).boxes.tolist()
            for points, (x1, y1, x2, y2) in zip(dataset.truth(index).points, boxes, strict=True):
                geometry = crop_geometry(manifest.preprocess, size, (x1, y1, x2, y2))
                cells = geometry.to_network(points) * (columns / manifest.preprocess.size[1])
                maps = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / 2) for px, py in cells.tolist()]
                straight = np.stack(maps).astype(np.float32)
                yield {"heatmaps": straight[None]}
                if flip_test:
                    mirrored = swapped(straight, dataset.layout.flip_pairs)[:, :, ::-1]
                    yield {"heatmaps": np.ascontiguousarray(mirrored)[None]}

    measured = _measured(outputs(), manifest, dataset, KEYPOINTS)
    assert measured.value > 0.97
    assert measured.parts["PCK@0.05"] > 0.95
    assert measured.parts["OKS AP"] > 0.8


def test_true_segments_lead_back_to_the_map(scenes: Path) -> None:
    dataset = CocoPanoptic.open(scenes)
    vocabulary = dataset.vocabulary
    manifest = _manifest("upsnet-tiny", vocabulary)
    specs = {spec.name: spec for spec in manifest.graphs["main"].outputs}
    things, stuff = len(vocabulary.things), len(vocabulary.stuff)

    def outputs() -> Iterator[Outputs]:
        for index in range(len(dataset)):
            arrays = {name: np.zeros(spec.shape, spec.dtype.value) for name, spec in specs.items()}
            truth = dataset.truth(index)
            slots = np.flatnonzero(truth.classes < things)
            arrays["scores"][0, slots] = 0.9
            arrays["classes"][0, slots] = truth.classes[slots]
            codes = np.where(truth.classes < things, stuff + np.arange(len(truth)), truth.classes - things)
            arrays["segments"][0] = np.array([stuff + specs["scores"].shape[1], *codes])[truth.segments]
            arrays["semantic"][0] = np.array([0, *truth.classes])[truth.segments]
            arrays["settled"][0] = 1
            yield arrays

    measured = _measured(outputs(), manifest, dataset, PANOPTIC)
    assert measured.value > 0.97
    assert measured.parts["PQ_th"] == 1.0


@pytest.mark.parametrize(
    ("name", "metric", "parts"),
    [("hourglass-tiny", "PCK@0.1", {"OKS AP", "nose"}), ("upsnet-tiny", "PQ", {"SQ", "PQ_st", "sky"})],
)
def test_every_task_is_measured_from_its_definition(
    scenes: Path, name: str, metric: str, parts: set[str]
) -> None:
    torch.manual_seed(0)
    dataset = task_of(registry.find(name).task).dataset.open(scenes)
    entry = registry.find(name).fit(dataset.vocabulary).with_config(input_size=(64, 64))
    loaded = LoadedModel(entry, entry.build(), CheckpointMeta.of(entry, dataset.vocabulary), "")
    measured = evaluate_module(loaded, dataset, limit=2)
    assert (measured.name, measured.images) == (metric, 2)
    assert parts < set(measured.parts)


def test_other_keypoints_than_the_models_are_refused(scenes: Path) -> None:
    dataset = CocoKeypoints.open(scenes)
    fewer = msgspec.structs.replace(dataset.layout, names=dataset.layout.names[:-1])
    vocabulary = Vocabulary(dataset.vocabulary.classes, fewer)
    with pytest.raises(DatasetError, match="not the model's"):
        refuse_other_names(vocabulary, dataset)
    bare = msgspec.structs.replace(dataset.layout, limbs=(), sigmas=())
    refuse_other_names(Vocabulary(dataset.vocabulary.classes, bare), dataset)


def test_things_and_stuff_are_not_exchanged(scenes: Path) -> None:
    dataset = CocoPanoptic.open(scenes)
    entry = registry.find("upsnet-tiny").fit(dataset.vocabulary)
    kinds = [label.kind for label in dataset.vocabulary.classes]
    classes = tuple(
        msgspec.structs.replace(label, kind=kind)
        for label, kind in zip(dataset.vocabulary.classes, reversed(kinds), strict=True)
    )
    loaded = LoadedModel(entry, entry.build(), CheckpointMeta.of(entry, Vocabulary(classes)), "")
    with pytest.raises(DatasetError, match="not the model's"):
        evaluate_module(loaded, dataset, limit=1)
