"""Mask and box AP: the reference evaluator's numbers, and no number for the wrong question."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import edgewise.models
from benchmarks.zoo import MEASURED_ON, REPEATED_ON, UNSEEN, measure, read_rows
from edgewise.models.checkpoints.checkpoint import CheckpointMeta, LoadedModel, load_model
from edgewise.models.checkpoints.evaluation import evaluate_module
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.measuring.evaluation import evaluate
from edgewise.models.scenes import LABELS, write_dataset
from edgewise.models.tasks.average_precision import AveragePrecision
from edgewise.models.tasks.boxes.metric import BOX_AP
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.instances.metric import MASK_AP
from edgewise.models.tasks.instances.row import INSTANCES
from edgewise.models.tasks.panoptic.dataset import CocoPanoptic
from edgewise.models.tasks.task import Measured
from edgewise.runtime.contract.manifest import Provenance
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.system.atomic import sha256_of
from edgewise.runtime.system.errors import DatasetError

from .scripted_walk import scripted_walk

TINY = Path(edgewise.models.__file__).parent / "pretrained" / "yolact-tiny.safetensors"
TARGETS = {
    "box AP": 0.5,
    "mask AP": 0.5,
    "PQ": 0.6,
    "PCK@0.1": 0.95,
    "OKS AP": 0.7,
    "AP50": 0.9,
    "chart GPS": 0.75,
}
BAND = 0.01
"""Another order of additions may turn a near tie, nothing else."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("evaluation") / "scenes", 30, 31, 96)


def _truth(scenes: Path) -> list[Instances]:
    dataset = CocoInstances.open(scenes)
    return [dataset.truth(index) for index in range(len(dataset))]


def _blurred(scenes: Path) -> list[Instances]:
    """Shifted masks, some wrong classes, some doubled, random scores."""
    rng = np.random.default_rng(5)
    results = []
    for truth in _truth(scenes):
        copies = rng.integers(1, 3, len(truth))
        chosen = truth[np.repeat(np.arange(len(truth)), copies)]
        masks = [np.roll(mask, tuple(rng.integers(-1, 2, 2)), (0, 1)) for mask in chosen.dense_masks()]
        wrong = rng.random(len(chosen)) < 0.2
        classes = np.where(wrong, rng.integers(0, len(LABELS), len(chosen)), chosen.classes)
        results.append(
            replace(
                chosen,
                masks=crop_dense(np.array(masks, np.bool_).reshape(-1, *truth.frame_size)),
                classes=classes.astype(np.int32),
                scores=np.sort(rng.random(len(chosen)))[::-1].astype(np.float32),
            )
        )
    return results


def _measured(scenes: Path, results: Sequence[Instances]) -> Measured:
    """The metric on the first images of the scenes, as many as there are results."""
    measuring = MASK_AP.begin(CocoInstances.open(scenes))
    for index, result in enumerate(results):
        measuring.add(index, result)
    return measuring.value()


def test_perfect_results_score_one(scenes: Path) -> None:
    found = _measured(scenes, _truth(scenes))
    assert found.name == "mask AP"
    assert found.value == found.parts["AP50"] == found.parts["AP75"] == pytest.approx(1.0)
    assert found.images == 30
    assert {label.name: found.parts[label.name] for label in LABELS} == {
        label.name: pytest.approx(1.0) for label in LABELS
    }


def test_no_results_score_nothing(scenes: Path) -> None:
    found = _measured(scenes, [result.above(2.0) for result in _truth(scenes)])
    assert found.value == found.parts["AP50"] == 0.0


@pytest.mark.parametrize("metric", [MASK_AP, BOX_AP], ids=lambda metric: metric.name)
def test_the_numbers_are_the_reference_evaluators(scenes: Path, metric: AveragePrecision) -> None:
    dataset = metric.wants.open(scenes)
    results: list[Any] = _blurred(scenes)
    if metric is BOX_AP:
        results = [_moved_boxes(result) for result in results]
    records = [
        record
        for image, result in zip(dataset.images, results, strict=True)
        for record in result.records(image.id)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.json))
        reference = COCOeval(truth, truth.loadRes(records), metric.overlap)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    measuring = metric.begin(dataset)
    for index, result in enumerate(results):
        measuring.add(index, result)
    found = measuring.value()
    expected = [value if value > -1 else math.nan for value in reference.stats[:6]]
    measured = [found.value, *(found.parts[name] for name in ("AP50", "AP75", "small", "medium", "large"))]
    assert 0.2 < found.value < 0.8
    np.testing.assert_allclose(measured, expected, atol=1e-9)


def _moved_boxes(instances: Instances) -> Boxes:
    """Their boxes, each a little beside."""
    moves = np.random.default_rng(7).uniform(-2, 2, instances.boxes.shape).astype(np.float32)
    return Boxes(
        instances.boxes + moves,
        instances.scores,
        instances.classes,
        instances.labels,
        instances.frame_size,
    )


def test_only_images_that_are_added_are_measured(scenes: Path) -> None:
    truth = _truth(scenes)
    part = _measured(scenes, truth[:10])
    assert (part.value, part.images) == (pytest.approx(1.0), 10)
    whole = _measured(scenes, [*truth[:10], *(result.above(2.0) for result in truth[10:])])
    assert whole.value < 0.9


def test_the_figure_so_far_can_be_asked_for_twice(scenes: Path) -> None:
    truth, measuring = _truth(scenes), MASK_AP.begin(CocoInstances.open(scenes))
    for index in range(5):
        measuring.add(index, truth[index])
    assert measuring.value().images == 5
    measuring.add(5, truth[5].above(2.0))
    assert measuring.value() == measuring.value()
    assert measuring.value().images == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": (*LABELS[:-1], msgspec.structs.replace(LABELS[-1], id=77))}, "category 77"),
        ({"scores": np.array([0.9, np.nan], np.float32)}, "score nan"),
        ({"frame_size": (97, 96)}, "97 x 96 pixels, not 96 x 96"),
    ],
)
def test_results_of_another_dataset_are_refused(scenes: Path, change: dict[str, Any], words: str) -> None:
    dataset = CocoInstances.open(scenes)
    index = next(index for index in range(len(dataset)) if len(dataset.truth(index)) > 1)
    last = np.full(2, len(LABELS) - 1, np.int32)
    pair = replace(dataset.truth(index)[:2], classes=last)
    size = change.get("frame_size", pair.frame_size)
    masks = np.zeros((2, *size), np.bool_)
    with pytest.raises(DatasetError, match=words):
        MASK_AP.begin(dataset).add(index, replace(pair, masks=crop_dense(masks), **change))


def test_images_are_measured_once_and_only_those_of_the_dataset(scenes: Path) -> None:
    truth, measuring = _truth(scenes), MASK_AP.begin(CocoInstances.open(scenes))
    with pytest.raises(DatasetError, match="no images to measure"):
        measuring.value()
    measuring.add(3, truth[3])
    with pytest.raises(DatasetError, match="measured already"):
        measuring.add(3, truth[3])
    for outside in (-1, len(truth)):
        with pytest.raises(DatasetError, match=f"image number {outside}"):
            measuring.add(outside, truth[0])


def test_results_and_ground_truth_must_be_of_instances(scenes: Path) -> None:
    panoptic = CocoPanoptic.open(scenes)
    with pytest.raises(DatasetError, match="needs instance ground truth"):
        MASK_AP.begin(panoptic)
    with pytest.raises(DatasetError, match="is of Panoptic, not Instances"):
        MASK_AP.begin(CocoInstances.open(scenes)).add(0, panoptic.truth(0))


def test_true_outputs_through_the_runtime_score_high(tmp_path: Path) -> None:
    """A network that knows the truth, at prototype resolution, loses only what the resolution costs."""
    dataset = CocoInstances.open(write_dataset(tmp_path / "scenes", 12, 8, 192))
    loaded = load_model(TINY)
    manifest = loaded.entry.manifest(Vocabulary(LABELS), Provenance(definition="test"))
    specs = {spec.name: spec for spec in manifest.graphs["main"].outputs}
    position = iter(range(len(dataset)))

    def network(tensor: np.ndarray[Any, Any]) -> dict[str, Any]:
        example = dataset.example(next(position))
        outputs = {name: np.zeros(spec.shape, spec.dtype.value) for name, spec in specs.items()}
        rows, columns = specs["masks"].shape[-2:]
        for slot, mask in enumerate(example.masks):
            outputs["boxes"][0, slot] = example.boxes[slot]
            outputs["scores"][0, slot] = 0.9
            outputs["classes"][0, slot] = example.classes[slot]
            small = torch.nn.functional.adaptive_avg_pool2d(
                torch.from_numpy(mask[None].astype(np.float32)), (rows, columns)
            )
            outputs["masks"][0, slot] = small[0].numpy()
        return outputs

    found = evaluate(scripted_walk(network, manifest), dataset, INSTANCES, range(len(dataset)))
    assert found.value > 0.85


def test_a_module_is_measured_through_the_runtime(tmp_path: Path) -> None:
    dataset = CocoInstances.open(write_dataset(tmp_path / "scenes", 8, UNSEEN, 256))
    trained = evaluate_module(load_model(TINY), dataset)
    assert trained.images == 8
    assert trained.value > 0.2
    assert evaluate_module(load_model(TINY), dataset, limit=3).images == 3


def test_other_categories_than_the_models_are_refused(scenes: Path) -> None:
    loaded = load_model(TINY)
    meta = CheckpointMeta.of(loaded.entry, Vocabulary(tuple(reversed(LABELS[1:]))))
    with pytest.raises(DatasetError, match="not the model's"):
        evaluate_module(LoadedModel(loaded.entry, loaded.module, meta, ""), CocoInstances.open(scenes))


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", sorted(TINY.parent.glob("*.safetensors")), ids=lambda path: path.stem)
def test_every_shipped_checkpoint_reaches_its_target(tmp_path: Path, checkpoint: Path) -> None:
    """The figure on many scenes is a record of this very file; the first of them are measured again.

    One that has no row yet reaches its target on these alone.
    """
    row = read_rows().get(checkpoint.stem)
    if row is None:
        found = measure(checkpoint, tmp_path / "scenes", REPEATED_ON)
        assert found.value >= TARGETS[found.name]
        return
    assert row.sha256 == sha256_of(checkpoint), "refresh the row with `make zoo`"
    assert row.measured[MEASURED_ON] >= TARGETS[row.metric]
    again = measure(checkpoint, tmp_path / "scenes", REPEATED_ON)
    assert (again.name, again.images) == (row.metric, REPEATED_ON)
    assert again.value == pytest.approx(row.measured[REPEATED_ON], abs=BAND)
    assert checkpoint.stat().st_size < 3_000_000
