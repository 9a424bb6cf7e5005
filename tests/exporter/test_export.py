from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType

import cv2
import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgewise.exporter.bundle.budgets import FP32
from edgewise.exporter.bundle.goldens import GOLDEN_COUNT, Picture, drawn_frame, golden_pictures
from edgewise.exporter.way.export import ExportOptions, export_bundle, export_checkpoint
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Manifest, Precision, Target
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.system.errors import (
    CheckpointError,
    EdgewiseError,
    ExportError,
    ManifestError,
    SourceError,
)
from edgewise.runtime.walk.session import Session


def test_the_bundle_proves_itself(spots_bundle: Bundle) -> None:
    report = selftest(spots_bundle)
    assert report.passed, report.failures
    assert len(spots_bundle.manifest.goldens) == GOLDEN_COUNT
    records = [
        json.loads(spots_bundle.read(golden.frames[0].result)) for golden in spots_bundle.manifest.goldens
    ]
    assert any(records), "some golden shows instances"
    assert records[-1] == [], "the plain one shows none"


def test_every_target_shares_one_fp32_file(spots_bundle: Bundle) -> None:
    paths = {spots_bundle.graph_entry("main", target, Precision.FP32).path for target in Target}
    assert paths == {"models/fp32.onnx"}
    assert [step.step for step in spots_bundle.manifest.provenance.steps] == [
        "export",
        "simplify",
        "plain-reshape",
        "opset-17",
        "demote-probes",
    ]
    assert spots_bundle.manifest.provenance.tools["torch"] == torch.__version__
    assert spots_bundle.manifest.writer.startswith("edgewise ")


def test_no_file_of_a_bundle_names_a_local_path(spots_bundle: Bundle) -> None:
    for entry in spots_bundle.manifest.files:
        data = (spots_bundle.path / entry.path).read_bytes()
        for trace in (b"/home/", b"/tmp/", b"site-packages", b'File "', str(Path.cwd()).encode()):
            assert trace not in data, entry.path


@pytest.mark.slow
def test_the_same_export_gives_the_same_bytes(
    spots: ModuleType, spots_bundle: Bundle, tmp_path: Path
) -> None:
    again = export_bundle({"main": spots.SpotFinder()}, spots.draft_manifest(), tmp_path / "again.bundle")
    assert again.manifest == spots_bundle.manifest


@pytest.mark.slow
def test_options_reach_the_bundle(spots: ModuleType, tmp_path: Path) -> None:
    budgets = (msgspec.structs.replace(FP32, metric_drop=0.5),)
    options = ExportOptions(device_only=True, targets=(Target.ONNXRUNTIME,), budgets=budgets, golden_count=2)
    bundle = export_bundle({"main": spots.SpotFinder()}, spots.draft_manifest(), tmp_path / "b", options)
    assert not [entry.path for entry in bundle.manifest.files if entry.path.startswith("source/")]
    assert [file.target for file in bundle.graph("main").files] == [Target.ONNXRUNTIME]
    assert bundle.manifest.budgets == budgets
    assert len(bundle.manifest.goldens) == 2


@pytest.mark.slow
def test_golden_pictures_are_the_users(spots: ModuleType, tmp_path: Path) -> None:
    picture = drawn_frame((90, 120), np.random.default_rng(1))
    cv2.imwrite(str(tmp_path / "mine.png"), picture)
    options = ExportOptions(images=(tmp_path / "mine.png",))
    bundle = export_bundle({"main": spots.SpotFinder()}, spots.draft_manifest(), tmp_path / "b", options)
    stored = cv2.imdecode(np.frombuffer(bundle.read(bundle.manifest.goldens[0].frames[0].image), np.uint8), 1)
    np.testing.assert_array_equal(stored, picture)
    with np.load(bundle.path / bundle.manifest.goldens[0].frames[0].tensors) as tensors:
        assert set(tensors.files) == {"boxes", "scores", "classes", "masks", "heat"}


@pytest.mark.parametrize(
    ("modules", "message"),
    [({}, "modules are given for \\[\\]"), ({"key": nn.Identity()}, "the manifest declares \\['main'\\]")],
)
def test_modules_and_graphs_must_agree(
    spots: ModuleType, modules: dict[str, nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_bundle(modules, spots.draft_manifest(), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_wrong_inputs_leave_nothing(spots: ModuleType, tmp_path: Path) -> None:
    broken = spots.SpotFinder()
    with torch.no_grad():
        broken.network[2].weight[0] = float("inf")
    draft: Manifest = spots.draft_manifest()
    incoherent = msgspec.structs.replace(
        draft, postprocess=msgspec.structs.replace(draft.postprocess, masks="nowhere")
    )
    twice = ExportOptions(budgets=(FP32, FP32))
    (tmp_path / "text.png").write_text("no picture")
    before = sorted(tmp_path.iterdir())
    destination = tmp_path / "b"
    with pytest.raises(ExportError, match="NaN or infinite"):
        export_bundle({"main": broken}, draft, destination)
    with pytest.raises(ManifestError, match="'nowhere'"):
        export_bundle({"main": spots.SpotFinder()}, incoherent, destination)
    with pytest.raises(ManifestError, match="two budgets"):
        export_bundle({"main": spots.SpotFinder()}, draft, destination, twice)
    for name, message in (("text.png", "corrupt, or no image"), ("none.png", "cannot be read: No such file")):
        with pytest.raises(SourceError, match=message):
            export_bundle(
                {"main": spots.SpotFinder()},
                draft,
                destination,
                ExportOptions(images=(tmp_path / name,)),
            )
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_destination_stops_before_any_work(spots: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("x")

    class Unreachable(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise AssertionError("ran")

    with pytest.raises(EdgewiseError, match="exists already"):
        export_bundle({"main": Unreachable()}, spots.draft_manifest(), tmp_path / "b")


def test_goldens_of_whole_frames() -> None:
    from edgewise.runtime.contract.preprocessing import AsIs, Stretch

    made = golden_pictures(Stretch(size=(64, 64)))
    assert len(made) == GOLDEN_COUNT
    assert all(one.frame.shape != (64, 64, 3) for one in made), "the geometry is exercised too"
    assert made[-1].frame.std() == 0
    many = [Picture(np.zeros((9, 9, 3), np.uint8))] * 6
    assert len(golden_pictures(Stretch(size=(64, 64)), many)) == 7, "no picture of the user is dropped"
    fewer = golden_pictures(Stretch(size=(64, 64)), count=2)
    assert [one.frame.std() > 0 for one in fewer] == [True, False]
    with pytest.raises(ExportError, match="a self test on 1 frames"):
        ExportOptions(golden_count=1)
    assert {one.frame.shape for one in golden_pictures(AsIs(size=(32, 48)))} == {(32, 48, 3)}


def test_goldens_of_crops_have_boxes() -> None:
    from edgewise.runtime.contract.preprocessing import AffineCrop

    spec = AffineCrop(size=(64, 48))
    own = FrameBoxes(np.array([[3.0, 4.0, 30.0, 60.0]]), np.ones(1, np.float32))
    frame = np.zeros((70, 90, 3), np.uint8)
    made = golden_pictures(spec, [Picture(frame, own), Picture(frame)])
    assert made[0].boxes is own
    assert len(made) >= 3
    for one in made[1:]:
        assert one.boxes is not None
        (x1, y1, x2, y2) = one.boxes.boxes[0].tolist()
        assert 0 <= x1 < x2 <= one.frame.shape[1]
        assert 0 <= y1 < y2 <= one.frame.shape[0]
    again = golden_pictures(spec, [Picture(frame, own), Picture(frame)])
    assert again[1].boxes is not None
    np.testing.assert_array_equal(again[1].boxes.boxes, made[1].boxes.boxes)


@pytest.mark.slow(seconds=40, reason="exports a model of the registry for every target")
def test_a_checkpoint_of_the_registry(seeded_tiny: Path, tmp_path: Path) -> None:
    bundle = export_checkpoint(seeded_tiny, tmp_path / "tiny.bundle")
    provenance = bundle.manifest.provenance
    assert bundle.manifest.licence == "terms"
    assert provenance.definition == "registry:yolact-tiny"
    assert provenance.checkpoint_sha256 == hashlib.sha256(seeded_tiny.read_bytes()).hexdigest()
    assert bundle.read("source/checkpoint.safetensors") == seeded_tiny.read_bytes()
    canonical = onnx.load_model_from_string(bundle.read("models/canonical.onnx"))
    assert {entry.version for entry in canonical.opset_import} == {17}
    assert selftest(bundle).passed
    with Session.open(bundle) as session:
        session(drawn_frame((120, 200), np.random.default_rng(0)))


def test_a_broken_checkpoint_is_one_error(seeded_tiny: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(seeded_tiny.read_bytes()[:-100])
    for path, message in ((cut, "not a safetensors file"), (tmp_path / "none", "no such checkpoint")):
        with pytest.raises(CheckpointError, match=message):
            export_checkpoint(path, tmp_path / "b")
    assert not (tmp_path / "b").exists()
