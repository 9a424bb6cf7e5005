"""Training: what a step sees, what a kill costs, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import (
    CheckpointMeta,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from edgewise.models.data.augment import NO_AUGMENTATION, Augmentation
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.recipe import TINY, Optimiser, RateSchedule, Recipe
from edgewise.models.families.yolact.recipes import PAPER
from edgewise.models.scenes import LABELS, write_dataset
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.training.batches import Batch, BatchSource
from edgewise.models.training.loop import TrainingRequest, in_bgr, train
from edgewise.runtime.contract.preprocessing import AffineCrop, ColourOrder, Stretch
from edgewise.runtime.system.errors import CheckpointError, DatasetError, EdgewiseError, ModelError
from edgewise.runtime.system.publishing import writing

SHORT = replace(TINY, steps=40, batch=2, warmup=4, learning_rate=2e-3)


def small_entry() -> ModelEntry:
    """The tiny model at a quarter of its size, for tests of the loop."""
    return registry.find("yolact-tiny").with_config(input_size=(64, 64))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("training") / "scenes", 6, 21, 64)


def _request(scenes: Path, out: Path, recipe: Recipe = SHORT, **changes: object) -> TrainingRequest:
    request = TrainingRequest(small_entry(), scenes, out, recipe=recipe, seed=3, save_every=2, threads=1)
    return replace(request, **changes)  # type: ignore[arg-type]


_CHILD = """
from dataclasses import replace
from pathlib import Path
from edgewise.models import registry
from edgewise.models.families.recipe import TINY
from edgewise.models.training.loop import TrainingRequest, train
recipe = replace(TINY, steps=40, batch=2, warmup=4, learning_rate=2e-3)
entry = registry.find("yolact-tiny").with_config(input_size=(64, 64))
train(TrainingRequest(entry, Path({data!r}), Path({out!r}), recipe=recipe, seed=3, save_every=2, threads=1))
"""


@pytest.mark.slow(seconds=40, reason="a process of its own trains, is killed, and goes on")
def test_a_killed_run_goes_on_to_the_very_same_weights(scenes: Path, tmp_path: Path) -> None:
    whole = train(_request(scenes, tmp_path / "whole.safetensors"))
    out = tmp_path / "killed.safetensors"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _CHILD.format(data=str(scenes), out=str(out)),
        ]
    )
    state = tmp_path / "killed.state"
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed.history.json").exists():
        assert time.monotonic() < deadline, "the run saved nothing within five minutes"
        assert child.poll() is None, "the run ended before it saved its state"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not out.exists()
    assert 0 < torch.load(state, weights_only=True)["step"] < SHORT.steps
    _, usable = load_checkpoint(tmp_path / "killed.partial.safetensors")
    train(_request(scenes, out))
    expected, resumed = load_checkpoint(whole)[1], load_checkpoint(out)[1]
    assert expected.keys() == resumed.keys() == usable.keys()
    for name in expected:
        assert torch.equal(expected[name], resumed[name]), name
    assert not torch.equal(usable["fpn.lat_layers.0.weight"], resumed["fpn.lat_layers.0.weight"])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        f"{stem}{suffix}" for stem in ("whole", "killed") for suffix in (".safetensors", ".history.json")
    }
    assert json.loads((tmp_path / "whole.history.json").read_text()) == json.loads(
        (tmp_path / "killed.history.json").read_text()
    )


class Stopped(Exception):
    """A run ends in the middle, as if it were killed."""


def _train_until(request: TrainingRequest, last: int, stop: type[BaseException] = Stopped) -> None:
    source_run = BatchSource.run

    def stopping(self: BatchSource, start: int, end: int) -> Iterator[tuple[int, Batch]]:
        for step, batch in source_run(self, start, end):
            if step == last:
                raise stop
            yield step, batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSource, "run", stopping)
        with pytest.raises(stop):
            train(request)


def _small_hourglass() -> ModelEntry:
    entry = registry.find("hourglass-tiny")
    return entry.with_config(input_size=(32, 32), stacks=1, channels=16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hourglass", "upsnet"])
def test_a_stopped_run_of_every_task_goes_on_to_the_same_weights(
    scenes: Path, tmp_path: Path, name: str
) -> None:
    entry = _small_hourglass()
    if name == "upsnet":
        entry = registry.find("upsnet-tiny").with_config(input_size=(64, 64))
    recipe = replace(registry.find(f"{name}-tiny").recipe, steps=4, batch=2, warmup=1)
    request = replace(_request(scenes, tmp_path / "whole.safetensors", recipe), entry=entry)
    train(request)
    resumed = replace(request, out=tmp_path / "stopped.safetensors")
    _train_until(resumed, last=3)
    assert (tmp_path / "stopped.state").exists()
    assert not (tmp_path / "stopped.safetensors").exists()
    train(resumed)
    expected, found = load_checkpoint(request.out)[1], load_checkpoint(resumed.out)[1]
    assert expected.keys() == found.keys()
    for key in expected:
        assert torch.equal(expected[key], found[key]), key
    assert load_model(resumed.out).entry.task is entry.task


@pytest.mark.slow
def test_keypoint_models_learn_and_are_measured(scenes: Path, tmp_path: Path) -> None:
    recipe = replace(
        registry.find("hourglass-tiny").recipe,
        steps=40,
        batch=4,
        warmup=2,
        augmentation=NO_AUGMENTATION,
        average=0.0,
    )
    request = _request(scenes, tmp_path / "m.safetensors", recipe, save_every=20, evaluation=scenes)
    out = train(replace(request, entry=_small_hourglass()))
    history = json.loads((tmp_path / "m.history.json").read_text())
    assert history[-1]["stack_1"] < 0.9 * history[0]["stack_1"]
    loaded = load_model(out)
    assert loaded.meta.vocabulary == CocoKeypoints.open(scenes).vocabulary
    assert loaded.meta.metrics["PCK@0.1"] == history[-1]["PCK@0.1"]


def test_what_fits_of_another_model_begins_the_training(scenes: Path, tmp_path: Path) -> None:
    tiny = Path(edgewise.models.__file__).parent / "pretrained" / "yolact-tiny.safetensors"
    recipe = replace(registry.find("upsnet-tiny").recipe, steps=1, batch=1, learning_rate=0.0)
    entry = registry.find("upsnet-tiny").with_config(input_size=(64, 64))
    request = replace(_request(scenes, tmp_path / "m.safetensors", recipe), entry=entry, initial=tiny)
    (meta, begun), (_, given) = load_checkpoint(train(request)), load_checkpoint(tiny)
    assert (meta.origin, meta.licence) == ("", "")
    shared = [key for key in begun if key.startswith("backbone.") and key.endswith("weight")]
    assert len(shared) > 20
    for key in shared:
        assert torch.equal(begun[key], given[key]), key
    refused = replace(request, entry=_small_hourglass(), out=tmp_path / "n.safetensors")
    with pytest.raises(CheckpointError, match="none of its"):
        train(replace(refused, recipe=replace(registry.find("hourglass-tiny").recipe, steps=1, batch=1)))


def test_a_trained_model_has_the_conventions_that_training_teaches(scenes: Path, tmp_path: Path) -> None:
    entry = registry.find("keypoint-rcnn-r50-v1")
    micro = entry.family.micro
    keypoints = msgspec.structs.replace(micro.keypoints, pixel_numbers=True)
    published = msgspec.structs.replace(micro, keypoints=keypoints)
    request = _request(scenes, tmp_path / "m.safetensors", replace(entry.recipe, steps=1, batch=1))
    loaded = load_model(train(replace(request, entry=replace(entry, config=published))))
    assert entry.config.keypoints.pixel_numbers
    assert not loaded.entry.config.keypoints.pixel_numbers


def test_what_begins_with_imported_weights_keeps_their_terms(scenes: Path, tmp_path: Path) -> None:
    entry, imported = small_entry().fit(Vocabulary(LABELS)), tmp_path / "imported.safetensors"
    meta = CheckpointMeta.of(entry, Vocabulary(LABELS), origin="published, sha256 0", licence="terms")
    save_checkpoint(imported, entry.build(), meta)
    recipe = replace(SHORT, steps=1)
    begun = load_model(train(_request(scenes, tmp_path / "m.safetensors", recipe, initial=imported))).meta
    assert (begun.origin, begun.licence) == ("published, sha256 0", "terms")


@pytest.mark.slow
def test_the_checkpoint_says_what_it_is(scenes: Path, tmp_path: Path) -> None:
    recipe = replace(SHORT, steps=2)
    out = train(
        _request(scenes, tmp_path / "m.safetensors", recipe, command="edgewise train yolact-tiny ...")
    )
    loaded = load_model(out)
    assert loaded.meta.vocabulary.classes == LABELS
    assert loaded.meta.training_command == "edgewise train yolact-tiny ..."
    assert loaded.meta.metrics["step"] == 2
    assert loaded.entry.config.input_size == (64, 64)
    assert not loaded.module.training


@pytest.mark.slow
def test_the_loss_falls(scenes: Path, tmp_path: Path) -> None:
    recipe = replace(SHORT, augmentation=Augmentation(mirror=0, zoom_out=1, zoom_in=1))
    train(_request(scenes, tmp_path / "m.safetensors", recipe, save_every=10))
    history = json.loads((tmp_path / "m.history.json").read_text())
    totals = [sum(record[name] for name in ("box", "class", "mask", "semantic")) for record in history]
    assert len(totals) == 4
    assert totals[-1] < 0.7 * totals[0]


@pytest.mark.parametrize("optimiser", list(Optimiser))
def test_a_diverging_run_stops_with_one_clear_error(
    scenes: Path, tmp_path: Path, optimiser: Optimiser
) -> None:
    recipe = replace(SHORT, optimiser=optimiser, learning_rate=1e25, warmup=0, clip_norm=0, weight_decay=0)
    with pytest.raises(ModelError, match="diverged at step") as caught:
        train(_request(scenes, tmp_path / "m.safetensors", recipe, save_every=100))
    assert "learning rate" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_state_of_another_run_is_refused(scenes: Path, tmp_path: Path) -> None:
    request = _request(scenes, tmp_path / "m.safetensors", replace(SHORT, steps=4))
    train(request)
    with pytest.raises(EdgewiseError, match="exists already"):
        train(request)
    for broken in (
        b"half a state",
        {"identity": 3},
        {"identity": "[" * 5000},
        {"identity": "[]"},
        [torch.ones(1)],
    ):
        if isinstance(broken, bytes):
            (tmp_path / "m.state").write_bytes(broken)
        else:
            torch.save(broken, tmp_path / "m.state")
        with pytest.raises(CheckpointError, match=r"(?s)not .*--restart"):
            train(request)
    before = (tmp_path / "m.safetensors").read_bytes()
    train(replace(request, restart=True))
    assert (tmp_path / "m.safetensors").read_bytes() == before


def test_an_interrupt_loses_no_step(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    request = _request(scenes, out, replace(SHORT, steps=6), save_every=100)
    _train_until(request, last=2, stop=KeyboardInterrupt)
    assert torch.load(tmp_path / "m.state", weights_only=True)["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.state"]
    _train_until(request, last=3)


def test_two_trainings_of_one_checkpoint_are_told(scenes: Path, tmp_path: Path) -> None:
    request = _request(scenes, tmp_path / "m.safetensors")
    with writing(request.out), ThreadPoolExecutor(1) as pool:
        error = pool.submit(train, request).exception()
    assert isinstance(error, EdgewiseError)
    assert "being written by process" in error.what


def test_a_changed_request_does_not_continue_an_old_run(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    request = _request(scenes, out)
    _train_until(request, last=3)
    with pytest.raises(ModelError, match=r"other settings.*recipe, seed"):
        train(replace(request, seed=4, recipe=replace(SHORT, batch=3)))


def test_a_dataset_without_objects_is_refused(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "instances.json").read_text())
    (tmp_path / "bare.json").write_text(json.dumps({**content, "annotations": []}))
    request = _request(tmp_path / "bare.json", tmp_path / "m.safetensors", images=scenes / "images")
    with pytest.raises(DatasetError, match="no annotated objects"):
        train(request)


def test_the_mask_ap_is_recorded_where_it_is_asked_for(scenes: Path, tmp_path: Path) -> None:
    recipe = replace(SHORT, steps=2)
    out = train(_request(scenes, tmp_path / "m.safetensors", recipe, evaluation=scenes))
    (record,) = json.loads((tmp_path / "m.history.json").read_text())
    assert 0 <= record["mask AP"] <= 1
    assert load_checkpoint(out)[0].metrics["mask AP"] == record["mask AP"]


def test_other_classes_in_the_evaluation_set_are_refused(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "instances.json").read_text())
    content["categories"][0]["name"] = "somebody"
    (tmp_path / "other.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(scenes / "images")
    with pytest.raises(DatasetError, match="other classes"):
        train(_request(scenes, tmp_path / "m.safetensors", evaluation=tmp_path / "other.json"))


def test_every_epoch_shows_every_image_once(scenes: Path) -> None:
    source = BatchSource(CocoInstances.open(scenes), Stretch(size=(64, 64)), Augmentation(), 4, 7)
    order = [index for step in range(6) for index in source.indices(step)]
    epochs = [order[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_depend_on_the_step_alone(scenes: Path) -> None:
    source = BatchSource(CocoInstances.open(scenes, keep=True), Stretch(size=(64, 64)), Augmentation(), 3, 7)
    fresh = replace(source, dataset=CocoInstances.open(scenes))
    for step, batch in source.run(2, 5):
        again = fresh.at(step)
        assert torch.equal(batch.frames, again.frames)
        assert batch.frames.dtype == torch.uint8
        for left, right in zip(batch.targets, again.targets, strict=True):
            assert torch.equal(left.boxes, right.boxes)
            assert torch.equal(left.masks, right.masks)


def test_rates_follow_the_paper_and_the_cosine() -> None:
    assert PAPER.rate(0) == pytest.approx(1e-4)
    for step, rate in ((500, 1e-3), (279_999, 1e-3), (280_000, 1e-4), (600_000, 1e-5), (750_000, 1e-7)):
        assert PAPER.rate(step) == pytest.approx(rate)
    cosine = replace(TINY, schedule=RateSchedule.COSINE, learning_rate=1.0, warmup=10, steps=110)
    rates = np.array([cosine.rate(step) for step in range(111)])
    assert rates.argmax() == 10
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)


def test_published_models_train_by_the_paper_and_the_tiny_one_by_its_own_recipe() -> None:
    assert registry.find("yolact-r50").recipe == PAPER
    assert registry.find("yolact-tiny").recipe == TINY
    hourglass, upsnet = registry.find("hourglass-8").recipe, registry.find("upsnet-r50-coco").recipe
    assert [hourglass.rate(step) for step in (0, 222_000, 333_000)] == pytest.approx([2.5e-4, 2.5e-5, 2.5e-6])
    assert [upsnet.rate(step) for step in (1500, 60_000, 80_000)] == pytest.approx([0.02, 0.002, 0.0002])
    tiny = [registry.find(name).recipe for name in registry.names() if name.endswith("-tiny")]
    assert all(recipe.schedule is RateSchedule.COSINE and recipe.average for recipe in tiny)


def test_frames_are_prepared_in_bgr_whatever_the_graph_takes() -> None:
    crop = AffineCrop(size=(64, 48), colour=ColourOrder.RGB, pad_value=(1, 2, 3))
    assert in_bgr(crop) == AffineCrop(size=(64, 48), colour=ColourOrder.BGR, pad_value=(3, 2, 1))
    plain = Stretch(size=(64, 64), colour=ColourOrder.RGB)
    assert in_bgr(plain) == Stretch(size=(64, 64))
    assert in_bgr(Stretch(size=(64, 64))) == Stretch(size=(64, 64))
