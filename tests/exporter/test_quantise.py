from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import ModuleType

import cv2
import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from edgewise.calibration.table import decode_table
from edgewise.exporter.bundle.budgets import FP16, FP32, INT8
from edgewise.exporter.bundle.goldens import drawn_frame
from edgewise.exporter.bundle.writer import update_bundle
from edgewise.exporter.graph.numerics import run_graph
from edgewise.exporter.graph.passes import expose
from edgewise.exporter.precision import quantise
from edgewise.exporter.precision import typed_graphs as precisions
from edgewise.exporter.precision.agreement import Agreement, Models
from edgewise.exporter.precision.calibration_images import CalibrationRequest, choose_images
from edgewise.exporter.precision.quantise import calibrate_bundle
from edgewise.exporter.traffic.layers import compare_bundle
from edgewise.exporter.way.export import ExportOptions, export_bundle
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.compare.checks import Check, Level
from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Budget, CalibrationMethod, Precision, Target
from edgewise.runtime.system.errors import CalibrationError, DatasetError


def deeper(spots: ModuleType) -> nn.Module:
    """The example's module with a network that has something to quantise; seeded weights."""
    module = spots.SpotFinder()
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for into, out, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 1), (32, 16, 1)):
        layers += [nn.Conv2d(into, out, 3, stride, 1), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
    module.network = nn.Sequential(*layers, nn.Conv2d(16, 3, 1), nn.Sigmoid())
    return module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(11)
    for number in range(13):
        cv2.imwrite(str(folder / f"{number:02d}.png"), drawn_frame((140, 180), generator))
    return folder


@pytest.fixture(scope="module")
def calibrated(spots: ModuleType, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Exported with calibration in one go; read only."""
    options = ExportOptions(calibration=CalibrationRequest(images=pictures, count=8))
    folder = tmp_path_factory.mktemp("calibrated") / "deeper.bundle"
    # Peaks of an untrained network are near ties, so its instances come and go more easily.
    tolerant = msgspec.structs.replace(INT8, matched_fraction=0.5, similarity=0.5, score_difference=0.1)
    draft = msgspec.structs.replace(spots.draft_manifest(), budgets=(FP32, FP16, tolerant))
    return export_bundle({"main": deeper(spots)}, draft, folder, options)


@pytest.fixture
def copied(calibrated: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(calibrated.path, tmp_path / "copy.bundle")
    return Bundle.open(tmp_path / "copy.bundle")


def model_of(bundle: Bundle, target: Target, precision: Precision) -> onnx.ModelProto:
    return onnx.load_model_from_string(bundle.graph_bytes("main", target, precision))


def scale_types(data: bytes) -> set[int]:
    model = onnx.load_model_from_string(data)
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {stored[node.input[1]] for node in model.graph.node if node.op_type == "DequantizeLinear"}


def test_every_target_has_every_precision(calibrated: Bundle) -> None:
    paths = {(file.target.value, file.precision.value): file.path for file in calibrated.graph("main").files}
    assert paths == {
        **{(target.value, "fp32"): "models/fp32.onnx" for target in Target},
        **{(target.value, "fp16"): "models/fp16.onnx" for target in Target},
        ("onnxruntime", "int8"): "models/onnxruntime.int8.onnx",
        ("tensorrt", "int8"): "models/tensorrt-before-10.int8.onnx",
        ("tensorrt-rtx", "int8"): "models/tensorrt.int8.onnx",
    }
    for release, path in (("8.6.2", "tensorrt-before-10.int8"), ("10.3.0", "tensorrt.int8")):
        entry = calibrated.graph_entry("main", Target.TENSORRT, Precision.INT8, release)
        assert entry.path == f"models/{path}.onnx"
    calibrated.verify()


@pytest.mark.parametrize("precision", list(Precision))
def test_the_bundle_proves_itself_in_every_precision(calibrated: Bundle, precision: Precision) -> None:
    report = selftest(calibrated, Target.ONNXRUNTIME, precision)
    assert report.passed, report.failures


def test_the_manifest_tells_the_whole_way(calibrated: Bundle, pictures: Path) -> None:
    manifest = calibrated.manifest
    steps = [step.step for step in manifest.provenance.steps]
    assert steps == [
        "export", "simplify", "plain-reshape", "opset-17", "demote-probes", "calibrate", "fp16", "int8",
        "traffic",
    ]  # fmt: skip
    assert [record.precision for record in manifest.precisions] == list(Precision)
    calibration = manifest.calibration
    assert calibration is not None
    assert calibration.method is CalibrationMethod.ENTROPY
    assert calibration.sample_count == 8
    table = decode_table(calibrated.read(calibration.tables["main"]))
    assert table.samples_sha256 == calibration.samples_sha256
    golden = cv2.imdecode(np.frombuffer(calibrated.read(manifest.goldens[0].frames[0].image), np.uint8), 1)
    assert any(np.array_equal(golden, cv2.imread(str(path))) for path in pictures.iterdir())


def test_provenance_tells_what_int8_moves_beside_fp16(calibrated: Bundle) -> None:
    step = calibrated.manifest.provenance.steps[-1]
    found = compare_bundle(calibrated)["main"]
    assert step.detail == f"on tensorrt {found.in_words()}"
    assert f"int8 moves {found.ratio():.2f} of fp16's bytes" in step.detail


def test_int8_files_hold_codes_and_the_kept_node_is_float16(calibrated: Bundle) -> None:
    signed = model_of(calibrated, Target.TENSORRT, Precision.INT8)
    stored = {tensor.name: tensor.data_type for tensor in signed.graph.initializer}
    codes = [name for name, kind in stored.items() if kind == TensorProto.INT8 and name.endswith("_codes")]
    assert len(codes) >= 3
    (record,) = (record for record in calibrated.manifest.precisions if record.precision is Precision.INT8)
    kept = {node.node: node for node in record.kept}
    first = kept["network/0/Conv"]
    assert first.precision is Precision.FP16
    assert "reads the image" in first.reason
    (node,) = (node for node in signed.graph.node if node.name == first.node)
    assert stored[node.input[1]] == TensorProto.FLOAT16
    scales = {
        release: scale_types(calibrated.graph_bytes("main", Target.TENSORRT, Precision.INT8, release))
        for release in ("8.6.2", "10.3.0")
    }
    assert scales == {"8.6.2": {TensorProto.FLOAT}, "10.3.0": {TensorProto.FLOAT16}}
    unsigned = model_of(calibrated, Target.ONNXRUNTIME, Precision.INT8)
    kinds = {tensor.data_type for tensor in unsigned.graph.initializer}
    assert TensorProto.UINT8 in kinds
    assert TensorProto.FLOAT16 not in kinds


def test_both_int8_forms_mean_the_same(calibrated: Bundle, pictures: Path) -> None:
    images = choose_images(CalibrationRequest(images=pictures, count=8), calibrated.manifest)
    frame = cv2.imread(str(images.held_out[0].path))
    samples = [{"image": cv2.resize(frame, (128, 128))[None]}]
    heats = [
        run_graph(expose(model_of(calibrated, target, precision), ["heat"]), samples)[0]["heat"]
        for target, precision in (
            (Target.ONNXRUNTIME, Precision.FP32),
            (Target.ONNXRUNTIME, Precision.INT8),
            (Target.TENSORRT, Precision.INT8),
        )
    ]
    assert 0 < difference(heats[1], heats[0]).relative < 0.1
    assert 0 < difference(heats[2], heats[0]).relative < 0.1


@pytest.mark.slow
def test_calibrating_again_exchanges_the_files(copied: Bundle, pictures: Path) -> None:
    request = CalibrationRequest(images=pictures, count=6, seed=5, method=CalibrationMethod.MINMAX)
    again = calibrate_bundle(copied, request)
    again.verify()
    assert again.manifest.calibration is not None
    assert again.manifest.calibration.sample_count == 6
    assert [step.step for step in again.manifest.provenance.steps].count("int8") == 1
    on_disk = {path.relative_to(again.path).as_posix() for path in again.path.rglob("*") if path.is_file()}
    assert on_disk == {"manifest.json", *(entry.path for entry in again.manifest.files)}
    assert selftest(again, Target.ONNXRUNTIME, Precision.INT8).passed


def test_the_same_calibration_changes_no_byte(copied: Bundle, pictures: Path) -> None:
    before = copied.manifest
    after = calibrate_bundle(copied, CalibrationRequest(images=pictures, count=8)).manifest
    assert after == before


def test_fp16_alone_drops_what_another_table_made(copied: Bundle, pictures: Path) -> None:
    request = CalibrationRequest(images=pictures, count=6, precisions=(Precision.FP16,))
    again = calibrate_bundle(copied, request)
    assert {file.precision for file in again.graph("main").files} == {Precision.FP32, Precision.FP16}


def test_a_failed_calibration_leaves_the_old_bundle(
    copied: Bundle, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise CalibrationError("no")

    monkeypatch.setattr(quantise, "make_int8", fail)
    with pytest.raises(CalibrationError):
        calibrate_bundle(copied, CalibrationRequest(images=pictures, count=6))
    Bundle.open(copied.path).verify()
    assert Bundle.open(copied.path).manifest == copied.manifest


def with_int8_budget(bundle: Bundle, **limits: float) -> Bundle:
    return with_budget(bundle, Precision.INT8, **limits)


def with_budget(bundle: Bundle, precision: Precision, **limits: float) -> Bundle:
    bundle = Bundle.open(bundle.path)

    def tightened(budget: Budget) -> Budget:
        changes = limits if budget.precision is precision else {}
        return msgspec.structs.replace(budget, **changes)

    budgets = tuple(tightened(budget) for budget in bundle.manifest.budgets)
    return update_bundle(bundle, msgspec.structs.replace(bundle.manifest, budgets=budgets), {})


LOOSE = {"matched_fraction": 0.0, "similarity": 0.0, "score_difference": 1.0, "tensor_cosine": 0.0}


@pytest.mark.slow
def test_the_search_keeps_the_most_sensitive_nodes(copied: Bundle, pictures: Path) -> None:
    request = CalibrationRequest(images=pictures, count=8, precisions=(Precision.INT8,))
    said: list[str] = []
    impossible = with_int8_budget(copied, tensor_relative_error=1e-6, **LOOSE)
    with pytest.raises(CalibrationError):
        calibrate_bundle(impossible, request, progress=said.append)
    losses = [float(found[1]) for line in said if (found := re.search(r"uses ([0-9.]+) of its budget", line))]
    assert min(losses) < losses[0], "keeping nodes wider helps"

    reachable = with_int8_budget(copied, tensor_relative_error=1e-6 * (losses[0] + min(losses)) / 2, **LOOSE)
    again = calibrate_bundle(reachable, request)
    (record,) = (record for record in again.manifest.precisions if record.precision is Precision.INT8)
    searched = [node for node in record.kept if "INT8 misses its budget without it" in node.reason]
    assert searched
    assert f"{len(searched)} of them by the precision search" in again.manifest.provenance.steps[-1].detail
    signed = model_of(again, Target.TENSORRT, Precision.INT8)
    quantised = {node.name for node in signed.graph.node if node.op_type == "Conv"} - {
        node.node for node in record.kept
    }
    assert quantised, "something is left in int8"


def test_a_count_that_breaks_another_form_is_passed_over(
    copied: Bundle, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U8 meets the budget with 0 and with 2 nodes kept, S8 from 1 on: neither form alone needs 2."""
    judged: list[tuple[bool, int]] = []

    def by_hand(self: Agreement, models: Models, precision: Precision) -> float:
        model = models["main"]
        stored = [tensor for tensor in model.graph.initializer if len(tensor.dims) >= 2]
        codes = [one for one in stored if one.data_type in (TensorProto.INT8, TensorProto.UINT8)]
        unsigned = TensorProto.UINT8 in {tensor.data_type for tensor in model.graph.initializer}
        judged.append((unsigned, 3 - len(codes)))
        return 0.5 if judged[-1][1] in ((0, 2) if unsigned else (1, 2)) else 2.0

    monkeypatch.setattr(Agreement, "budget_used", by_hand)
    request = CalibrationRequest(images=pictures, count=8, precisions=(Precision.INT8,))
    step = calibrate_bundle(copied, request).manifest.provenance.steps[-1]
    assert judged == [(unsigned, kept) for kept in (0, 1, 2) for unsigned in (True, False)]
    assert "2 of them by the precision search; uses 0.50 of its budget" in step.detail


@pytest.mark.slow
def test_an_impossible_budget_is_an_error_and_changes_nothing(copied: Bundle, pictures: Path) -> None:
    strict = with_int8_budget(copied, tensor_relative_error=1e-7)
    with pytest.raises(CalibrationError, match="INT8 misses its budget"):
        calibrate_bundle(strict, CalibrationRequest(images=pictures, count=8))
    Bundle.open(copied.path).verify()


def test_a_module_without_anything_to_quantise_gets_what_it_can(
    spots_bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(spots_bundle.path, tmp_path / "copy.bundle")))
    asked = CalibrationRequest(images=pictures, count=4, precisions=(Precision.INT8,))
    with pytest.raises(CalibrationError, match="1 reads the image") as caught:
        calibrate_bundle(bundle, asked)
    assert "FP16" in caught.value.hint
    done = calibrate_bundle(bundle, CalibrationRequest(images=pictures, count=4))
    assert [record.precision for record in done.manifest.precisions] == [Precision.FP32, Precision.FP16]
    assert {file.precision for file in done.graph("main").files} == {Precision.FP32, Precision.FP16}
    assert done.manifest.provenance.steps[-1].detail.startswith("not made: no node is left to quantise")
    done.verify()
    assert selftest(done, Target.ONNXRUNTIME, Precision.FP16).passed


@pytest.mark.slow
def test_a_missed_budget_loses_neither_fp32_nor_what_the_bundle_holds(
    spots: ModuleType, pictures: Path, tmp_path: Path
) -> None:
    impossible = msgspec.structs.replace(FP16, tensor_relative_error=1e-9)
    request = CalibrationRequest(images=pictures, count=4, precisions=(Precision.FP16,))
    options = ExportOptions(
        calibration=request, budgets=(FP32, impossible, INT8), targets=(Target.ONNXRUNTIME,)
    )
    bundle = export_bundle({"main": deeper(spots)}, spots.draft_manifest(), tmp_path / "b", options)
    assert {file.precision for file in bundle.graph("main").files} == {Precision.FP32}
    step = bundle.manifest.provenance.steps[-1]
    assert (step.step, step.detail.startswith("not made: FP16 misses its budget")) == ("fp16", True)
    assert selftest(bundle, Target.ONNXRUNTIME).passed
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(CalibrationError, match="FP16 misses its budget"):
        calibrate_bundle(bundle, request)
    assert (bundle.path / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_fp16_is_searched_as_int8_is(copied: Bundle, pictures: Path) -> None:
    """A limit between what all islands use and what fewer of them use."""
    said: list[str] = []
    request = CalibrationRequest(images=pictures, count=8, precisions=(Precision.FP16,))
    tight = with_budget(copied, Precision.FP16, tensor_relative_error=1e-7, **LOOSE)
    with pytest.raises(CalibrationError, match="FP16 misses"):
        calibrate_bundle(tight, request, progress=said.append)
    found = [re.search(r"with (\d+) more .* uses ([0-9.]+) of", line) for line in said]
    losses = {int(each[1]): float(each[2]) for each in found if each}
    limit = 1e-7 * (losses[0] + min(losses.values())) / 2
    reachable = with_budget(copied, Precision.FP16, tensor_relative_error=limit, **LOOSE)
    again = calibrate_bundle(reachable, request)
    (record,) = (each for each in again.manifest.precisions if each.precision is Precision.FP16)
    searched = [node for node in record.kept if "FP16 misses its budget without it" in node.reason]
    assert 0 < len(searched) < 5
    typed = model_of(again, Target.TENSORRT, Precision.FP16)
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in typed.graph.initializer}


# ---------------------------------------------------------------- images


def test_no_image_calibrates_and_judges(pictures: Path, spots: ModuleType) -> None:
    images = choose_images(CalibrationRequest(images=pictures, count=8, seed=2), spots.draft_manifest())
    used = {sample.path for sample in images.calibration.samples}
    assert len(used) == 8
    assert len(images.held_out) == 4
    assert not used & {sample.path for sample in images.held_out}
    one = choose_images(
        CalibrationRequest(images=pictures, count=8, seed=2, held_out=1), spots.draft_manifest()
    )
    assert one.calibration == images.calibration
    assert one.held_out == images.held_out[:1]


def test_too_few_or_unfit_images_are_refused(pictures: Path, tmp_path: Path, spots: ModuleType) -> None:
    draft = spots.draft_manifest()
    with pytest.raises(CalibrationError, match="40 calibration images were asked for"):
        choose_images(CalibrationRequest(images=pictures, count=40), draft)
    with pytest.raises(CalibrationError, match="are needed to judge INT8"):
        choose_images(CalibrationRequest(images=pictures, count=10), draft)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="no image to calibrate on"):
        choose_images(CalibrationRequest(images=tmp_path / "empty", count=1), draft)
    with pytest.raises(DatasetError):
        choose_images(CalibrationRequest(images=pictures, count=4, validation=tmp_path / "none"), draft)
    with pytest.raises(CalibrationError, match="calibration makes fp16 and int8"):
        CalibrationRequest(images=pictures, precisions=(Precision.FP32,))
    with pytest.raises(CalibrationError, match="0 images to judge"):
        CalibrationRequest(images=pictures, held_out=0)


def test_validation_images_are_refused_for_calibration(tmp_path: Path, spots: ModuleType) -> None:
    from edgewise.models.scenes.dataset import write_dataset

    dataset = write_dataset(tmp_path / "scenes", 8, 9, 64)
    request = CalibrationRequest(images=dataset / "images", count=4, validation=dataset)
    with pytest.raises(CalibrationError, match="is in the evaluation set"):
        choose_images(request, spots.draft_manifest())
    from_coco = choose_images(CalibrationRequest(images=dataset, count=4), spots.draft_manifest())
    assert all(sample.path.parent.name == "images" for sample in from_coco.calibration.samples)


# ---------------------------------------------------------------- judging


def test_the_share_of_a_limit_fails_closed() -> None:
    def share(value: float | None, limit: float, *, at_least: bool = False) -> float:
        check = Check(level=Level.RAW, figure="q", value=value, limit=limit, at_least=at_least)
        return check.share_of_limit

    assert share(0.01, 0.02) == pytest.approx(0.5)
    assert share(0.97, 0.95, at_least=True) == pytest.approx(0.6)
    assert share(float("nan"), 0.02) == float("inf")
    assert share(float("nan"), 0.95, at_least=True) == float("inf")
    assert share(None, 0.02) == float("inf")
    assert share(None, 0.95, at_least=True) == float("inf")
    assert share(0.99, 1.0, at_least=True) == float("inf")
    assert share(1.0, 1.0, at_least=True) == 0.0


def test_a_node_that_cannot_be_float16_either_says_both_reasons() -> None:
    from edgewise.exporter.passes.fp16 import Fp16Choice
    from edgewise.runtime.contract.manifest import KeptNode

    half = KeptNode(node="n", precision=Precision.FP16, reason="reads the image")
    wide = KeptNode(node="n", precision=Precision.FP32, reason="activations reach 900")
    (merged,) = precisions.explained((half,), Fp16Choice(frozenset(), (wide,)))
    assert merged.precision is Precision.FP32
    assert merged.reason == "reads the image; activations reach 900"


@pytest.mark.slow(seconds=60, reason="calibrates a shipped model and measures its metric again and again")
def test_validation_judges_int8_by_the_mask_ap(tmp_path: Path) -> None:
    """With room at every level: what rounding makes of a few scenes depends on the processor."""
    from importlib import resources

    from edgewise.exporter.way.export import export_checkpoint
    from edgewise.models.scenes.dataset import write_dataset

    calibration = write_dataset(tmp_path / "calibration", 12, 81)
    evaluation = write_dataset(tmp_path / "evaluation", 6, 82)
    request = CalibrationRequest(
        images=calibration, count=8, validation=evaluation, precisions=(Precision.INT8,)
    )
    packaged = resources.files("edgewise.models") / "pretrained" / "yolact-tiny.safetensors"
    with resources.as_file(packaged) as checkpoint:
        exported = export_checkpoint(checkpoint, tmp_path / "tiny.bundle")
    roomy = with_int8_budget(exported, tensor_relative_error=1e6, metric_drop=1.0, **LOOSE)
    step = calibrate_bundle(roomy, request).manifest.provenance.steps[-1]
    assert step.step == "int8"
    assert "and by mask AP on 6" in step.detail
