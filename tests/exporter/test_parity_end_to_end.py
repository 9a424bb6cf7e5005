"""Parity of real bundles: the documented example's module here, the shipped YOLACT with all precisions below.

What must break parity is planted in files of the bundle whose hashes the manifest then lists, so that nothing
but the comparison itself can notice.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import cv2
import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from rich.console import Console

from edgewise.exporter.parity import Against, Level, ParityReport, ParityRequest, Status, compare, parity
from edgewise.exporter.parity.html import render_html
from edgewise.exporter.parity.report import decode_report, encode_report
from edgewise.runtime.contract.bundle import MANIFEST, Bundle
from edgewise.runtime.contract.encoding import encode
from edgewise.runtime.contract.manifest import Manifest, Precision, Target
from edgewise.runtime.engines.options import OnnxRuntimeOptions
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.pixels.rle import encode_rle
from edgewise.runtime.system.errors import (
    BackendError,
    BundleError,
    CheckpointError,
    DatasetError,
    EdgewiseError,
    ParityError,
)
from edgewise.runtime.walk.session import Session

from .breaking import edit, exchange

FP32_FILE = "models/fp32.onnx"
INT8_FILE = "models/onnxruntime.int8.onnx"
IMAGES = 4

# ---------------------------------------------------------------- a dataset and bundles to break


def write_spots(folder: Path, *, empty: tuple[int, ...] = (1,)) -> Path:
    """Noisy discs of one colour on grey, annotated; the images in `empty` show none.

    Without the noise two grid cells beside a disc's middle are equally hot, and rounding picks its box.
    """
    generator = np.random.default_rng(4)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(IMAGES):
        frame = np.full((150, 200, 3), 110, np.uint8)
        for channel, left in enumerate((30, 100, 170)):
            if number in empty:
                continue
            centre = left, int(generator.integers(30, 120))
            colour = [20, 20, 20]
            colour[channel] = 250
            cv2.circle(frame, centre, 16, colour, cv2.FILLED)
            mask = (frame == colour).all(axis=2)[None]
            left_edge, top, width, height = crop_dense(mask).places[0].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": channel + 1,
                    "bbox": [left_edge, top, width, height],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [150, 200], "counts": encode_rle(crop_dense(mask))[0]},
                }
            )
        frame = np.clip(frame + generator.normal(0, 6, frame.shape), 0, 255).astype(np.uint8)
        name = f"{number:03d}.png"
        cv2.imwrite(str(folder / "images" / name), frame)
        images.append({"id": number + 1, "file_name": name, "height": 150, "width": 200})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(("blue", "green", "red"))]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spots(tmp_path_factory.mktemp("data") / "spots")


def edit_manifest(bundle: Path, change: Callable[[Manifest], Manifest]) -> None:
    (bundle / MANIFEST).write_bytes(encode(change(Bundle.open(bundle).manifest)))


@pytest.fixture
def broken(spots_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(spots_bundle.path, tmp_path / "spots.bundle"))


@pytest.fixture
def request_for(spots: ModuleType, dataset: Path) -> Callable[[Path], ParityRequest]:
    def make(bundle: Path) -> ParityRequest:
        return ParityRequest(bundle=bundle, dataset=dataset, module=spots.SpotFinder(), threads=1, overlays=0)

    return make


@pytest.fixture(scope="module")
def whole(spots_bundle: Bundle, spots: ModuleType, dataset: Path) -> ParityReport:
    """The report of the unbroken bundle."""
    return compare(
        ParityRequest(bundle=spots_bundle.path, dataset=dataset, module=spots.SpotFinder(), threads=1)
    ).report


Make = Callable[[Path], ParityRequest]

# ---------------------------------------------------------------- an unbroken bundle


def test_an_unbroken_bundle_holds(whole: ParityReport) -> None:
    assert whole.passed, whole.failures()
    ran = [stage.name for stage in whole.stages if stage.status is Status.PASSED]
    assert ran == ["torch", "exported", "canonical", "fp32"]
    assert whole.images == IMAGES
    for name in ran[1:]:
        for against in Against:
            comparison = whole.comparison(name, against)
            assert comparison is not None
            assert comparison.images == IMAGES
            assert {check.level for check in comparison.checks} == set(Level)
    fp32 = whole.comparison("fp32", Against.BEFORE)
    assert fp32 is not None
    assert fp32.reference == "canonical"
    assert fp32.decoded is not None
    assert fp32.decoded.images_both_empty == 1
    assert fp32.decoded.reference_count == 3 * (IMAGES - 1)


def test_the_probe_of_a_lowered_file_is_compared(whole: ParityReport) -> None:
    comparison = whole.comparison("fp32", Against.REFERENCE)
    assert comparison is not None
    judged = {figure.name: figure for figure in comparison.tensors if figure.judged}
    assert set(judged) == {"heat"}
    assert judged["heat"].cosine > 0.999999


def test_the_metric_is_measured_and_not_trivial(whole: ParityReport) -> None:
    figures = [stage.metrics["AP50"] for stage in whole.stages if stage.status is Status.PASSED]
    assert figures[0] is not None
    assert figures[0] > 0.9
    assert len(set(figures)) == 1


def test_stages_that_cannot_run_are_listed_and_prove_nothing(whole: ParityReport) -> None:
    idle = [stage for stage in whole.stages if stage.status is Status.NOT_RUN]
    if not idle:
        pytest.skip("every engine runs on this machine")
    for stage in idle:
        assert stage.problems
        assert stage.problems[0]
        assert whole.comparison(stage.name, Against.REFERENCE) is None


def test_the_report_reads_back(whole: ParityReport) -> None:
    data = encode_report(whole)
    assert decode_report(data) == whole
    plain = json.loads(data)
    assert plain["passed"] is True
    assert all(comparison["passed"] for comparison in plain["comparisons"])


def test_a_limit_takes_the_first_images(broken: Path, request_for: Make) -> None:
    report = compare(replace(request_for(broken), limit=2)).report
    assert (report.images, report.objects) == (2, 3)
    assert report.passed, report.failures()


# ---------------------------------------------------------------- what must break it


def largest_weight(model: onnx.ModelProto) -> onnx.TensorProto:
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    return max(weights, key=lambda tensor: int(np.prod(tensor.dims)))


def scale_largest_weight(model: onnx.ModelProto) -> None:
    """Five per cent."""
    largest = largest_weight(model)
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.05), largest.name))


def rename_output(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "scores":
                node.output[index] = "scores_1"
    next(output for output in model.graph.output if output.name == "scores").name = "scores_1"


def plant_nan(model: onnx.ModelProto) -> None:
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.ravel()[3] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def find_nothing(model: onnx.ModelProto) -> None:
    """All scores become 0, as of an engine that runs and detects nothing."""
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "scores":
                node.output[index] = "scores_before"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    model.graph.node.append(helper.make_node("Mul", ["scores_before", "nothing"], ["scores"], name="silence"))


def failed_levels(report: ParityReport, name: str, against: Against) -> set[Level]:
    comparison = report.comparison(name, against)
    assert comparison is not None
    return {check.level for check in comparison.checks if not check.passed}


def test_a_perturbed_weight_fails_and_its_layer_is_named(broken: Path, request_for: Make) -> None:
    edit(broken, FP32_FILE, scale_largest_weight)
    report = compare(request_for(broken)).report
    assert not report.passed
    for against in Against:
        assert Level.RAW in failed_levels(report, "fp32", against)
    comparison = report.comparison("fp32", Against.BEFORE)
    assert comparison is not None
    assert comparison.divergence is not None
    layer = comparison.divergence.layer
    assert layer is not None
    model = onnx.load(broken / FP32_FILE)
    weight = largest_weight(model).name
    assert layer.node == next(node.name for node in model.graph.node if weight in node.input)
    untouched = report.comparison("canonical", Against.REFERENCE)
    assert untouched is not None
    assert untouched.passed


def test_a_renamed_output_fails(broken: Path, request_for: Make) -> None:
    edit(broken, FP32_FILE, rename_output)
    report = compare(request_for(broken)).report
    assert not report.passed
    assert report.stage("fp32").status is Status.FAILED
    assert "scores_1" in report.stage("fp32").problems[0]
    assert Level.RUN in failed_levels(report, "fp32", Against.REFERENCE)


def test_a_planted_nan_fails(broken: Path, request_for: Make) -> None:
    edit(broken, FP32_FILE, plant_nan)
    report = compare(request_for(broken)).report
    assert not report.passed
    assert report.stage("fp32").status is Status.FAILED
    assert any("NaN" in problem for problem in report.stage("fp32").problems)
    comparison = report.comparison("fp32", Against.BEFORE)
    assert comparison is not None
    assert comparison.divergence is not None
    assert comparison.divergence.layer is not None
    assert comparison.divergence.layer.relative is None


def test_an_engine_that_finds_nothing_fails(broken: Path, request_for: Make) -> None:
    edit(broken, FP32_FILE, find_nothing)
    report = compare(request_for(broken)).report
    assert not report.passed
    failed = failed_levels(report, "fp32", Against.REFERENCE)
    assert {Level.DECODED, Level.METRIC} <= failed
    comparison = report.comparison("fp32", Against.REFERENCE)
    assert comparison is not None
    assert comparison.decoded is not None
    assert comparison.decoded.images_one_empty == IMAGES - 1
    assert comparison.decoded.images_both_empty == 1


def test_a_renamed_probe_fails(broken: Path, request_for: Make) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["warmth" if name == "heat" else name for name in node.input]
            node.output[:] = ["warmth" if name == "heat" else name for name in node.output]
        for value in model.graph.value_info:
            value.name = "warmth" if value.name == "heat" else value.name

    edit(broken, FP32_FILE, rename)
    report = compare(request_for(broken)).report
    assert not report.passed
    assert "no float tensor named 'heat'" in report.stage("fp32").problems[0]


def test_another_module_than_the_exported_one_fails(
    broken: Path, request_for: Make, spots: ModuleType
) -> None:
    module = spots.SpotFinder()
    with torch.no_grad():
        max(module.parameters(), key=torch.numel).mul_(0.97)
    report = compare(replace(request_for(broken), module=module)).report
    assert not report.passed
    for name in ("exported", "canonical", "fp32"):
        assert Level.RAW in failed_levels(report, name, Against.REFERENCE)
    before = report.comparison("fp32", Against.BEFORE)
    assert before is not None
    assert before.passed


def test_a_module_with_other_outputs_fails(broken: Path, request_for: Make, spots: ModuleType) -> None:
    class Shorter(spots.SpotFinder):  # type: ignore[name-defined,misc]
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return super().forward(image)[:-1]

    report = compare(replace(request_for(broken), module=Shorter())).report
    assert not report.passed
    assert report.stage("torch").status is Status.FAILED
    assert "4 tensors" in report.stage("torch").problems[0]


def test_images_without_objects_prove_nothing(
    spots_bundle: Bundle, spots: ModuleType, tmp_path: Path
) -> None:
    bare = write_spots(tmp_path / "bare", empty=tuple(range(IMAGES)))
    request = ParityRequest(bundle=spots_bundle.path, dataset=bare, module=spots.SpotFinder(), threads=1)
    report = compare(request).report
    assert not report.passed
    assert {Level.DECODED, Level.METRIC} <= failed_levels(report, "fp32", Against.REFERENCE)


# ---------------------------------------------------------------- the command


def run_command(request: ParityRequest, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    try:
        parity(request, console)
    finally:
        text = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.mark.slow
def test_the_command_prints_and_writes(broken: Path, request_for: Make, tmp_path: Path) -> None:
    output = tmp_path / "out"
    text = run_command(replace(request_for(broken), output=output))
    assert max(len(line) for line in text.splitlines() if not line.startswith("report:")) <= 80
    assert "…" not in text
    assert "parity holds" in text
    assert "canonical ONNX" in text
    assert sorted(path.name for path in output.iterdir()) == [".edgewise.json", "parity.html", "parity.json"]
    assert decode_report((output / "parity.json").read_bytes()).passed


@pytest.mark.slow
def test_a_broken_budget_raises_after_the_report_is_written(broken: Path, request_for: Make) -> None:
    edit(broken, FP32_FILE, scale_largest_weight)
    with pytest.raises(ParityError, match="parity is broken") as caught:
        run_command(request_for(broken))
    folder = broken.with_name("spots.bundle.parity")
    assert str(folder) in caught.value.hint
    assert not decode_report((folder / "parity.json").read_bytes()).passed
    page = (folder / "parity.html").read_text()
    assert "Parity is broken" in page
    assert "the first to exceed" in page


@pytest.mark.slow
def test_the_page_loads_nothing_from_elsewhere(broken: Path, request_for: Make) -> None:
    compared = compare(replace(request_for(broken), overlays=3))
    page = render_html(compared.report, compared.overlays)
    assert not re.search(r"https?://", page)
    assert "<script" not in page
    assert "<link" not in page
    sources = re.findall(r"(?:src|href)=\"([^\"]{0,40})", page)
    assert sources
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert len(re.findall(r"data:image/jpeg", page)) == 3 * 3
    for title in (
        "ground truth",
        "torch",
        "FP32",
        "Error by depth" if compared.report.curves else "Raw tensors",
    ):
        assert title in page


def test_an_interruption_leaves_nothing(
    broken: Path, request_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def interrupt(step: str, done: int, total: int) -> None:
        if (step, done) == ("comparing", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(request_for(broken), interrupt)
    assert not any(scratch.iterdir())
    assert not broken.with_name("spots.bundle.parity").exists()


# ---------------------------------------------------------------- wrong input


def test_the_canonical_model_can_be_the_reference_on_request(broken: Path, request_for: Make) -> None:
    report = compare(replace(request_for(broken), module=None, without_torch=True)).report
    assert report.passed, report.failures()
    assert report.reference == "canonical"
    assert [stage.name for stage in report.stages if stage.status is Status.PASSED] == ["canonical", "fp32"]
    assert any("left out on request" in note for note in report.notes)


def test_missing_sources_are_an_error(broken: Path, request_for: Make) -> None:
    (broken / "source/exported.onnx").unlink()
    edit_manifest(
        broken,
        lambda manifest: msgspec.structs.replace(
            manifest,
            files=tuple(entry for entry in manifest.files if not entry.path.startswith("source/")),
        ),
    )
    with pytest.raises(ParityError, match=r"no source/exported\.onnx") as caught:
        compare(request_for(broken))
    assert "--without-torch" in caught.value.hint


def test_a_module_from_outside_the_registry_must_be_given(broken: Path, request_for: Make) -> None:
    with pytest.raises(ParityError, match="not in the registry"):
        compare(replace(request_for(broken), module=None))


def test_a_backend_that_was_asked_for_and_cannot_run_fails(broken: Path, request_for: Make) -> None:
    report = compare(replace(request_for(broken), backends=(Target.ONNXRUNTIME, Target.TENSORRT_RTX))).report
    engine = report.stage("engine.tensorrt-rtx.fp32")
    if engine.status is Status.PASSED:
        pytest.skip("the engine runs on this machine")
    assert engine.status is Status.FAILED
    assert not report.passed
    alone = compare(replace(request_for(broken), backends=(Target.ONNXRUNTIME,))).report
    assert alone.passed, alone.failures()
    assert all("engine" not in stage.name for stage in alone.stages)


def test_other_categories_are_refused(broken: Path, request_for: Make, tmp_path: Path) -> None:
    data = write_spots(tmp_path / "other")
    plain = json.loads((data / "instances.json").read_text())
    plain["categories"][1]["name"] = "lime"
    (data / "instances.json").write_text(json.dumps(plain))
    with pytest.raises(DatasetError, match="calls 2 'lime'"):
        compare(replace(request_for(broken), dataset=data))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dataset": Path("nowhere")}, DatasetError),
        ({"bundle": Path("nowhere")}, BundleError),
        ({"limit": 0}, DatasetError),
    ],
)
def test_wrong_requests_are_refused(
    broken: Path, request_for: Make, change: dict[str, object], error: type[EdgewiseError]
) -> None:
    with pytest.raises(error):
        compare(replace(request_for(broken), **change))


def test_a_changed_byte_is_refused_before_anything_runs(broken: Path, request_for: Make) -> None:
    data = bytearray((broken / FP32_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (broken / FP32_FILE).write_bytes(bytes(data))
    with pytest.raises(BundleError, match="not the file that was exported"):
        compare(request_for(broken))


# ---------------------------------------------------------------- the shipped YOLACT in every precision


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes that the checkpoint was not trained on, some of them empty."""
    from edgewise.models.scenes import write_dataset

    return write_dataset(tmp_path_factory.mktemp("scenes") / "unseen", count=TINY_IMAGES, seed=4021)


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgewise.exporter.precision.quantise import CalibrationRequest
    from edgewise.exporter.way.export import ExportOptions, export_checkpoint
    from edgewise.models.scenes import write_dataset

    folder = tmp_path_factory.mktemp("tiny")
    calibration = write_dataset(folder / "calibration", count=40, seed=4022)
    checkpoint = files("edgewise.models") / "pretrained" / "yolact-tiny.safetensors"
    request = CalibrationRequest(images=calibration / "images", count=24)
    options = ExportOptions(calibration=request)
    return export_checkpoint(Path(str(checkpoint)), folder / "tiny.bundle", options).path


@pytest.fixture(scope="module")
def tiny_whole(tiny_bundle: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unbroken bundle's report; whether it holds is for a test to say."""
    output = tmp_path_factory.mktemp("whole") / "out"
    with suppress(ParityError):
        run_command(ParityRequest(bundle=tiny_bundle, dataset=tiny_data, output=output))
    return output


@pytest.fixture
def broken_tiny(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.bundle"))


TINY_IMAGES = 16
LOWERED = ("models/fp16.onnx", INT8_FILE)


def tiny_report(bundle: Path, data: Path) -> ParityReport:
    return compare(ParityRequest(bundle=bundle, dataset=data, overlays=0)).report


def stage_of(report: ParityReport, file: str) -> str:
    return next(stage.name for stage in report.stages if stage.file == file)


@pytest.mark.slow
def test_the_shipped_model_holds_in_every_precision(tiny_whole: Path) -> None:
    report = decode_report((tiny_whole / "parity.json").read_bytes())
    assert report.passed, report.failures()
    ran = [stage.name for stage in report.stages if stage.status is Status.PASSED]
    assert ran[:6] == ["torch", "exported", "canonical", "fp32", "fp16", "int8"]
    assert any(name.startswith("int8.tensorrt") for name in ran), "TensorRT's own form is compared too"
    fp32, fp16, int8 = (report.comparison(name, Against.REFERENCE) for name in ("fp32", "fp16", "int8"))
    assert fp32 is not None
    assert fp16 is not None
    assert int8 is not None
    errors = [
        max(figure.relative or 0.0 for figure in comparison.tensors if figure.judged)
        for comparison in (fp32, fp16, int8)
    ]
    assert errors == sorted(errors)
    assert 0 < errors[0] <= 1e-4
    assert {curve.candidate for curve in report.curves} >= {"fp16", "int8"}
    assert all(len(curve.layers) > 50 for curve in report.curves)
    assert "Error by depth" in (tiny_whole / "parity.html").read_text()


def shift_weight(model: onnx.ModelProto) -> None:
    """Two thirds of the largest four-dimensional weight, whatever its type."""
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    largest = max(weights, key=lambda tensor: int(np.prod(tensor.dims)))
    values = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array((values * 0.67).astype(values.dtype), largest.name))


def plant_inner_nan(model: onnx.ModelProto) -> None:
    """NaN in a float weight, or in the scale of an integer one."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    wanted = [tensor for tensor in model.graph.initializer if tensor.data_type in floats and len(tensor.dims)]
    largest = max(wanted, key=lambda tensor: int(np.prod(tensor.dims)))
    values = numpy_helper.to_array(largest).copy()
    values.ravel()[0] = np.nan
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))


@pytest.mark.slow
@pytest.mark.parametrize("file", LOWERED)
@pytest.mark.parametrize("change", [shift_weight, rename_output, plant_inner_nan, find_nothing])
def test_a_broken_precision_fails_alone(
    broken_tiny: Path, tiny_data: Path, tiny_whole: Path, file: str, change: Callable[[onnx.ModelProto], None]
) -> None:
    whole = decode_report((tiny_whole / "parity.json").read_bytes())
    edit(broken_tiny, file, change)
    report = tiny_report(broken_tiny, tiny_data)
    assert not report.passed
    name = stage_of(report, file)
    for against in Against:
        comparison = report.comparison(name, against)
        assert comparison is not None
        assert not comparison.passed
    others = [
        {
            (comparison.candidate, comparison.against): comparison.passed
            for comparison in each.comparisons
            if comparison.candidate != name
        }
        for each in (report, whole)
    ]
    assert others[0]
    assert others[0] == others[1]


@pytest.mark.slow
def test_halved_calibration_ranges_fail(broken_tiny: Path, tiny_data: Path) -> None:
    from edgewise.calibration.lower_u8 import lower_u8
    from edgewise.calibration.placement import place
    from edgewise.calibration.qdq import quantise_s8
    from edgewise.calibration.table import decode_table

    bundle = Bundle.open(broken_tiny)
    assert bundle.manifest.calibration is not None
    table = decode_table(bundle.read(bundle.manifest.calibration.tables["main"]))
    fp32 = onnx.load_model_from_string(bundle.read("models/fp32.onnx"))
    (record,) = (each for each in bundle.manifest.precisions if each.precision is Precision.INT8)
    placed = place(fp32, keep={node.node: node.reason for node in record.kept}, target=Target.ONNXRUNTIME)

    def failed(factor: float) -> set[tuple[Level, str]]:
        """What INT8 with all ranges times `factor` breaks."""
        ranges = {
            name: msgspec.structs.replace(found, amax=found.amax * factor)
            for name, found in table.tensors.items()
        }
        changed = msgspec.structs.replace(table, tensors=ranges)
        codes = lower_u8(quantise_s8(fp32, changed, placed))
        exchange(broken_tiny, INT8_FILE, codes.SerializeToString())
        comparison = tiny_report(broken_tiny, tiny_data).comparison("int8", Against.REFERENCE)
        assert comparison is not None
        return {(check.level, check.figure) for check in comparison.checks if not check.passed}

    # What the whole ranges break, if anything, depends on the processor.
    added = failed(0.5) - failed(1.0)
    assert {level for level, _ in added} & {Level.RAW, Level.DECODED}


@pytest.mark.slow
def test_the_calibration_images_are_no_evidence(tiny_bundle: Path) -> None:
    with pytest.raises(DatasetError, match="24 calibration images were chosen from this dataset"):
        compare(ParityRequest(bundle=tiny_bundle, dataset=tiny_bundle.parent / "calibration"))


@pytest.mark.slow
def test_another_checkpoint_is_refused(broken_tiny: Path, tiny_data: Path, tmp_path: Path) -> None:
    from edgewise.models.checkpoints.checkpoint import load_model, save_checkpoint

    loaded = load_model(broken_tiny / "source/checkpoint.safetensors")
    with torch.no_grad():
        next(loaded.module.parameters()).mul_(1.01)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, loaded.module, loaded.meta)
    with pytest.raises(CheckpointError, match="another SHA-256"):
        compare(ParityRequest(bundle=broken_tiny, dataset=tiny_data, checkpoint=other))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "precision"),
    [(FP32_FILE, Precision.FP32), *zip(LOWERED, [Precision.FP16, Precision.INT8], strict=True)],
)
def test_the_sums_of_every_stored_precision_tell_a_session_of_nan(
    broken_tiny: Path, tiny_data: Path, file: str, precision: Precision
) -> None:
    frame = cv2.imread(str(next((tiny_data / "images").iterdir())))
    sums = Bundle.open(broken_tiny).graph("main").nan_sums
    assert sums is not None

    def found() -> dict[str, float]:
        with Session.open(
            Bundle.open(broken_tiny), backend=OnnxRuntimeOptions(threads=1), precision=precision
        ) as session:
            (told,) = session.walk.infer(session.walk.prepare(Frame(0, "first", frame, 0.0))).sums
            session(frame)
            return told

    assert np.isfinite(found()[sums.of[0]])
    edit(broken_tiny, file, lambda model: plant_behind(model, sums.of[0]))
    with pytest.raises(BackendError, match=f"{sums.of[0]!r} holds NaN"):
        found()


def plant_behind(model: onnx.ModelProto, output: str) -> None:
    """One NaN into an output, at its last element, before anything reads it."""
    node = next(node for node in model.graph.node if output in node.output)
    node.output[list(node.output).index(output)] = f"{output}_before"
    (value,) = (value for value in model.graph.output if value.name == output)
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    planted = np.zeros(shape, np.float32)
    planted.ravel()[-1] = np.nan
    model.graph.initializer.append(numpy_helper.from_array(planted, "planted"))
    place = list(model.graph.node).index(node) + 1
    model.graph.node.insert(place, helper.make_node("Add", [f"{output}_before", "planted"], [output]))
