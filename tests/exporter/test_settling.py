"""A graph's suppression rounds grow until the pictures of its export settle, and only as far as it helps."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from edgewise.exporter.bundle.goldens import Clip, Picture, drawn_frame
from edgewise.exporter.way.export import CHECKPOINT, ExportOptions, export_checkpoint
from edgewise.exporter.way.settling import settled_model
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import (
    CheckpointMeta,
    LoadedModel,
    load_model,
    save_checkpoint,
)
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.upsnet.config import MICRO, UpsnetConfig
from edgewise.models.families.yolact.config import MICRO as MICRO_YOLACT
from edgewise.models.families.yolact.config import Suppression
from edgewise.models.scenes import LABELS, STUFF_LABELS
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract.manifest import Manifest, Provenance, Target


def model(folder: Path, entry: ModelEntry, classes: Vocabulary) -> Path:
    torch.manual_seed(3)
    save_checkpoint(folder / "seeded.safetensors", entry.build(), CheckpointMeta.of(entry, classes))
    return folder / "seeded.safetensors"


def upsnet(rounds: int) -> ModelEntry:
    """Every prior overlaps many others, so that two rounds prove nothing."""
    proposals = msgspec.structs.replace(MICRO.decoding.proposals, rounds=rounds, iou_threshold=0.3)
    decoding = msgspec.structs.replace(MICRO.decoding, proposals=proposals, score_threshold=0.5)
    config = msgspec.structs.replace(MICRO, decoding=decoding)
    return registry.find("upsnet-tiny").from_config(msgspec.to_builtins(config))


VOCABULARY = Vocabulary((*LABELS[:3], *STUFF_LABELS[:2]))


def draft(loaded: LoadedModel) -> Manifest:
    return loaded.entry.manifest(loaded.meta.vocabulary, Provenance(definition="tests"))


def clips(count: int) -> list[Clip]:
    generator = np.random.default_rng(4)
    return [(Picture(drawn_frame((64, 96), generator)),) for _ in range(count)]


def rounds_of(loaded: LoadedModel) -> int:
    config = loaded.entry.config
    assert isinstance(config, UpsnetConfig)
    return config.decoding.proposals.rounds


def test_rounds_double_until_every_picture_settles(tmp_path: Path) -> None:
    loaded = load_model(model(tmp_path, upsnet(2), VOCABULARY))
    said: list[str] = []
    grown, (step,) = settled_model(loaded, draft(loaded), clips(4), said.append)
    times = rounds_of(grown) // 2
    assert times in (2, 4, 8)
    assert step.detail == said[-1] == f"{times} times the rounds of the checkpoint: 4 of 4 pictures settle"
    again, (step,) = settled_model(grown, draft(grown), clips(4), said.append)
    assert again is grown
    assert step.detail.startswith("1 times")
    for name, tensor in loaded.module.state_dict().items():
        assert torch.equal(tensor, grown.module.state_dict()[name]), name
    assert grown.sha256 != loaded.sha256, "the checkpoint of the bundle says another number of rounds"


def yolact(**decoding: object) -> ModelEntry:
    greedy = msgspec.structs.replace(MICRO_YOLACT.decoding, suppression=Suppression.GREEDY, **decoding)
    config = msgspec.structs.replace(MICRO_YOLACT, decoding=greedy)
    return registry.find("yolact-tiny").from_config(msgspec.to_builtins(config))


THREE = Vocabulary(tuple(LABELS[:3]))


def test_a_picture_that_no_doubling_settles_makes_nothing_grow(tmp_path: Path) -> None:
    """More pairs pass the threshold than enter the suppression: no number of rounds proves the result."""
    entry = yolact(score_threshold=0.0, greedy_candidates=4, greedy_rounds=4)
    loaded = load_model(model(tmp_path, entry, THREE))
    kept, (step,) = settled_model(loaded, draft(loaded), clips(2), print)
    assert kept is loaded
    assert step.detail.endswith("0 of 2 pictures settle")
    fast = entry.with_config(decoding=msgspec.to_builtins(MICRO_YOLACT.decoding))
    assert fast.with_more_rounds() is None, "fast suppression takes no rounds"


@pytest.mark.slow
def test_an_export_grows_and_its_bundle_carries_what_it_ran(tmp_path: Path) -> None:
    entry = yolact(score_threshold=0.2, iou_threshold=0.3, greedy_candidates=2268, greedy_rounds=2)
    options = ExportOptions(targets=(Target.ONNXRUNTIME,))
    bundle = export_checkpoint(model(tmp_path, entry, THREE), tmp_path / "grown.bundle", options)
    assert selftest(bundle).passed
    inside = load_model(bundle.file(CHECKPOINT))
    assert inside.entry.config.decoding.greedy_rounds > 2
    assert inside.sha256 == bundle.manifest.provenance.checkpoint_sha256
    assert "4 of 4 pictures settle" in bundle.manifest.provenance.steps[0].detail
