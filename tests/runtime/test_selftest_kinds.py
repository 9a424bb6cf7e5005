"""The self test of bundles with crops and with panoptic maps: good ones hold, what is wrong fails."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgewise.runtime.command.selftest import SelfTestReport, selftest
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import PanopticFusion
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.kinds.panoptic.kind import IMPOSSIBLE, UNKNOWN
from edgewise.runtime.results.outputs import Outputs
from edgewise.runtime.system.errors import BackendError

from .conftest import ONE_THREAD, detector_manifest, write_files
from .hand_built import (
    balls_frame,
    build,
    build_panoptic_bundle,
    build_pose_bundle,
    panoptic_manifest,
    panoptic_network,
    pose_network,
)


def run(path: Path) -> SelfTestReport:
    return selftest(Bundle.open(path), ONE_THREAD)


def failed(report: SelfTestReport) -> set[tuple[str, str]]:
    return {(check.subject, check.figure) for check in report.failures}


def test_a_pose_bundle_holds_in_every_look(tmp_path: Path) -> None:
    report = run(build_pose_bundle(tmp_path / "pose"))
    assert report.passed, report.failures
    looks = [check.sample for check in report.checks if check.figure == "cosine"]
    assert looks == [
        *(f"goldens/000.png, look {number}" for number in (1, 2, 3, 4)),
        *(f"goldens/001.png, look {number}" for number in (1, 2)),
    ]


def test_a_person_who_is_missed_fails(tmp_path: Path) -> None:
    report = run(build_pose_bundle(tmp_path / "pose", pose_network(gain=0.05)))
    assert {("result", "matched fraction"), ("result", "one side empty"), ("heatmaps", "relative error")} <= (
        failed(report)
    )


def test_points_that_moved_fail(tmp_path: Path) -> None:
    """The flip test averages what moves right with what moves left, so the looks must be compared too."""
    report = run(build_pose_bundle(tmp_path / "pose", pose_network(shift=1)))
    assert {("heatmaps", "relative error"), ("heatmaps", "cosine")} <= failed(report)
    assert ("result", "mean similarity") in failed(report)


def test_goldens_with_another_number_of_looks_are_refused(tmp_path: Path) -> None:
    path = build_pose_bundle(tmp_path / "pose")
    rewrite(path, tmp_path / "again", "goldens/000.npz", without_the_last_look)
    with pytest.raises(BackendError, match=r"golden tensor 'heatmaps' is float32 \[3, 2, 16, 12\]"):
        run(tmp_path / "again")


def test_a_panoptic_bundle_holds(tmp_path: Path) -> None:
    report = run(build_panoptic_bundle(tmp_path / "panoptic"))
    assert report.passed, report.failures
    maps = [check.subject for check in report.checks if check.figure == "equal share"]
    assert maps == ["segments", "semantic"] * 2


def test_slots_may_change_places(tmp_path: Path) -> None:
    """Near-equal scores swap slots; the map of classes and the decoded result stay."""
    report = run(build_panoptic_bundle(tmp_path / "panoptic", panoptic_network(swapped=True)))
    assert report.passed, report.failures


def test_a_missing_stuff_class_fails(tmp_path: Path) -> None:
    report = run(build_panoptic_bundle(tmp_path / "panoptic", panoptic_network(blind=True)))
    assert {
        ("segments", "equal share"),
        ("semantic", "equal share"),
        ("result", "matched fraction"),
    } <= failed(report)


def test_goldens_are_decoded_before_anything_runs(tmp_path: Path) -> None:
    """Stored maps that give another result than the stored one: the decoding on this machine is wrong."""
    path = build(
        tmp_path / "panoptic",
        panoptic_manifest(),
        panoptic_network(),
        None,
        [balls_frame()],
    )
    rewrite(path, tmp_path / "again", "goldens/000.json", first_record_only)
    assert ("decoding", "matched fraction") in failed(run(tmp_path / "again"))


def class_maps(manifest: Manifest, outputs: Outputs) -> Mapping[str, np.ndarray]:
    return kind_of(manifest).compared(manifest.postprocess, manifest, outputs).maps


def test_maps_of_slots_become_maps_of_classes() -> None:
    manifest = panoptic_manifest()
    outputs = {
        "classes": np.array([[0, 0]], np.int32),
        "segments": np.array([[[0, 1, 2, 3, 4, 5, -1]]], np.int32),
        "semantic": np.array([[[1, 2, 0, 0, 1, 1, 1]]], np.int32),
    }
    maps = class_maps(manifest, outputs)
    assert maps["segments"].tolist() == [[[1, 2, 0, 0, UNKNOWN, IMPOSSIBLE, IMPOSSIBLE]]]
    assert maps["semantic"].tolist() == outputs["semantic"].tolist()


def test_semantic_logits_become_their_largest_channel() -> None:
    manifest = msgspec.structs.replace(
        detector_manifest({}), postprocess=PanopticFusion(semantic_classes=(-1, 1))
    )
    logits = np.array([[[[0.5, 2.0]], [[0.7, 1.0]]]], np.float32)
    assert class_maps(manifest, {"semantic": logits})["semantic"].tolist() == [[[1, 0]]]
    labels = np.array([[[1, 0]]], np.int32)
    assert class_maps(manifest, {"semantic": labels})["semantic"].tolist() == [[[1, 0]]]
    assert class_maps(detector_manifest({}), {}) == {}


def rewrite(bundle: Path, folder: Path, path: str, change: Callable[[bytes], bytes]) -> None:
    """The bundle again with another file and the right hash."""
    opened = Bundle.open(bundle)
    files = {entry.path: opened.read(entry.path) for entry in opened.manifest.files}
    files[path] = change(files[path])
    write_files(folder, opened.manifest, files)


def without_the_last_look(data: bytes) -> bytes:
    with np.load(io.BytesIO(data)) as archive:
        kept = {name: archive[name][:-1] for name in archive.files}
    buffer = io.BytesIO()
    np.savez(buffer, **kept)
    return buffer.getvalue()


def first_record_only(data: bytes) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(data)[:1])
