"""A good bundle passes; every way of being wrong fails or is refused."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgewise.runtime.command.selftest import SelfTestReport, selftest
from edgewise.runtime.compare.checks import Check, Level, output_checks, tensor_checks
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import DType, Graph, Precision, TensorSpec
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.system.errors import BackendError, BundleError, ManifestError

from .conftest import IMAGE, ONE_THREAD, OUTPUTS, budget, detector, detector_manifest, write_files


def run(path: Path, precision: str = "fp32") -> SelfTestReport:
    return selftest(Bundle.open(path), ONE_THREAD, precision)


def failed(report: SelfTestReport) -> set[str]:
    return {check.figure for check in report.failures}


def test_a_good_bundle_passes(bundle_folder: Path) -> None:
    report = run(bundle_folder)
    assert report.passed
    assert report.engine.startswith("onnxruntime")
    assert {check.sample for check in report.checks} == {
        "goldens/000.png", "goldens/001.png", "all goldens",
        "a black frame", "a white frame", "a frame of noise",
    }  # fmt: skip


def test_every_precision_is_tested_on_its_own(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle(models={Precision.FP32: detector(), Precision.FP16: detector(score_scale=0.9)})
    assert run(path).passed
    report = run(path, "fp16")
    assert not report.passed
    assert {"slot difference", "mean score difference"} <= failed(report)


def test_scores_that_vanish_fail_as_an_empty_side(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle(models={Precision.FP32: detector(score_scale=0.01)})
    assert {"one side empty", "matched fraction"} <= failed(run(path))


def test_masks_that_differ_fail(make_bundle: Callable[..., Path]) -> None:
    # At 0.5 of its brightness nothing of the frame is above the mask threshold.
    path = make_bundle(models={Precision.FP32: detector(mask_scale=0.5)})
    assert "matched fraction" in failed(run(path))


def test_nan_is_refused(make_bundle: Callable[..., Path]) -> None:
    with pytest.raises(BackendError, match="NaN"):
        run(make_bundle(models={Precision.FP32: detector(nan=True)}))


def test_a_frame_that_no_golden_shows_fails_where_it_gives_nan(make_bundle: Callable[..., Path]) -> None:
    models = {Precision.FP32: detector(), Precision.FP16: detector(dazzled=255.0)}
    path = make_bundle(models=models)
    assert run(path).passed
    (failure,) = run(path, "fp16").failures
    assert (failure.sample, failure.figure) == ("a white frame", "gives a result")
    assert "NaN" in failure.note


def test_a_changed_golden_is_refused(bundle_folder: Path) -> None:
    golden = bundle_folder / "goldens" / "000.json"
    golden.write_bytes(golden.read_bytes().replace(b"3", b"4", 1))
    with pytest.raises(BundleError, match="not the file that was exported"):
        run(bundle_folder)


def rewritten(
    bundle: Path, folder: Path, change: Callable[[dict[str, bytes]], None], **fields: object
) -> Path:
    """The bundle again with other files and right hashes: what a wrong exporter would write."""
    opened = Bundle.open(bundle)
    files = {entry.path: opened.read(entry.path) for entry in opened.manifest.files}
    change(files)
    return write_files(folder, msgspec.structs.replace(opened.manifest, **fields), files)


def test_values_outside_their_declared_range_fail(bundle_folder: Path, tmp_path: Path) -> None:
    graph = Bundle.open(bundle_folder).graph("main")
    narrow = tuple(
        msgspec.structs.replace(spec, value_range=(0.0, 0.5)) if spec.name == "scores" else spec
        for spec in graph.outputs
    )
    graphs = {"main": msgspec.structs.replace(graph, outputs=narrow)}
    report = run(rewritten(bundle_folder, tmp_path / "again", lambda files: None, graphs=graphs))
    assert [(check.sample, check.subject, check.figure) for check in report.failures] == [
        ("goldens/000.png", "scores", "outside its range by")
    ]


def test_a_golden_result_that_its_own_tensors_do_not_give(bundle_folder: Path, tmp_path: Path) -> None:
    def drop_an_instance(files: dict[str, bytes]) -> None:
        records = msgspec.json.decode(files["goldens/000.json"])
        files["goldens/000.json"] = msgspec.json.encode(records[:1])

    report = run(rewritten(bundle_folder, tmp_path / "again", drop_an_instance))
    assert any((check.sample, check.subject) == ("goldens/000.png", "decoding") for check in report.failures)


def test_a_golden_without_a_declared_tensor(bundle_folder: Path, tmp_path: Path) -> None:
    def drop_the_tensors(files: dict[str, bytes]) -> None:
        with np.load(io.BytesIO(files["goldens/000.npz"])) as archive:
            kept = {name: archive[name] for name in archive.files if name != "masks"}
        buffer = io.BytesIO()
        np.savez(buffer, **kept)
        files["goldens/000.npz"] = buffer.getvalue()

    with pytest.raises(BackendError, match="golden tensors do not fit: missing"):
        run(rewritten(bundle_folder, tmp_path / "again", drop_the_tensors))


def test_nothing_to_test_with_is_no_pass(bundle_folder: Path, tmp_path: Path) -> None:
    without = rewritten(bundle_folder, tmp_path / "again", lambda files: None, goldens=())
    with pytest.raises(BundleError, match="no golden"):
        run(without)


def test_no_budget_is_no_pass(bundle_folder: Path, tmp_path: Path) -> None:
    without = rewritten(bundle_folder, tmp_path / "again", lambda files: None, budgets=())
    with pytest.raises(ManifestError, match="no budget"):
        run(without)


def test_nan_never_passes_a_check() -> None:
    def passed(value: float | None, limit: float, *, at_least: bool = False) -> bool:
        return Check(level=Level.RAW, figure="share", value=value, limit=limit, at_least=at_least).passed

    for unknown in (float("nan"), None):
        assert not passed(unknown, 1.0)
        assert not passed(unknown, 0.0, at_least=True)
    assert not passed(float("inf"), 0.0, at_least=True)
    assert not passed(float("inf"), float("inf"))
    for at_least in (False, True):
        assert passed(1.0, 1.0, at_least=at_least)
    assert not passed(1.1, 1.0)
    assert not passed(0.9, 1.0, at_least=True)


def test_an_empty_report_has_not_passed(bundle_folder: Path) -> None:
    assert not dataclasses.replace(run(bundle_folder), checks=()).passed


def test_tensor_figures() -> None:
    spec = OUTPUTS[1]
    wanted = {"scores": np.array([[1.0, -2.0]], np.float32)}
    off = {"scores": np.array([[1.0, -1.9]], np.float32)}
    error, cosine = tensor_checks("g", [spec], wanted, off, budget(Precision.FP32))
    assert error.value == pytest.approx(0.05)
    assert not error.passed
    assert cosine.value == pytest.approx((1 + 3.8) / np.sqrt(5 * (1 + 3.61)))
    same = tensor_checks("g", [spec], wanted, wanted, budget(Precision.FP32))
    assert all(check.passed for check in same)
    zero = {"scores": np.zeros((1, 2), np.float32)}
    assert all(check.passed for check in tensor_checks("g", [spec], zero, zero, budget(Precision.FP32)))
    against_zero = tensor_checks("g", [spec], zero, off, budget(Precision.FP32))
    assert not any(check.passed for check in against_zero)
    assert against_zero[0].value == float("inf")


def test_a_graph_without_slots_compares_its_outputs() -> None:
    spec = TensorSpec(name="heatmaps", dtype=DType.FLOAT32, shape=(1, 2))
    graph = Graph(inputs=(IMAGE,), outputs=(spec,))
    tensors = {"heatmaps": np.array([[0.0, 1.0]], np.float32)}
    wrong = {"heatmaps": np.array([[1.0, 0.0]], np.float32)}
    manifest = msgspec.structs.replace(detector_manifest({}), postprocess=HeatmapKeypoints())
    good = output_checks("g", manifest, graph, tensors, tensors, budget(Precision.FP32))
    bad = output_checks("g", manifest, graph, tensors, wrong, budget(Precision.FP32))
    assert good
    assert all(check.passed for check in good)
    assert not any(check.passed for check in bad)
