"""From export to parity, for people and for panoptic segments, on modules that one can follow."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import nn

from edgewise.calibration.samples import CalibrationSet
from edgewise.exporter.parity import Against, Level, ParityReport, ParityRequest, Status, compare
from edgewise.exporter.parity.html import render_html
from edgewise.exporter.precision.agreement import Agreement, Sample, TaskMetric
from edgewise.exporter.precision.calibration_images import CalibrationRequest, choose_images, pictures_of
from edgewise.exporter.precision.quantise import calibrate_bundle
from edgewise.exporter.way.export import export_bundle
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract.bundle import MANIFEST, Bundle
from edgewise.runtime.contract.encoding import encode
from edgewise.runtime.contract.manifest import Budget, FileEntry, Manifest, Precision
from edgewise.runtime.system.errors import DatasetError

from .colour_models import (
    PanopticByColour,
    PoseByColour,
    panoptic_manifest,
    pose_manifest,
    write_meadows,
    write_people,
)

pytestmark = pytest.mark.slow

FP32_FILE = "models/fp32.onnx"
IMAGES = 6


@dataclass(frozen=True)
class Kind:
    """A module on its way, with scenes to measure on."""

    task: str
    module: nn.Module
    bundle: Bundle
    dataset: Path
    calibration: Path

    def request(self, bundle: Path | None = None) -> ParityRequest:
        return ParityRequest(
            bundle=bundle or self.bundle.path, dataset=self.dataset, module=self.module, threads=1, overlays=3
        )


Write = Callable[[Path, int, int], Path]


def make(
    folder: Path, task: str, module: nn.Module, draft: Manifest, write: Write, write_measured: Write
) -> Kind:
    bundle = export_bundle({"main": module}, draft, folder / "fp32.bundle")
    calibration, dataset = write(folder / "calibration", 14, 5), write_measured(folder / "scenes", IMAGES, 6)
    return Kind(task, module, bundle, dataset, calibration)


@pytest.fixture(scope="module")
def pose(tmp_path_factory: pytest.TempPathFactory) -> Kind:
    def measured(folder: Path, count: int, seed: int) -> Path:
        return write_people(folder, count, seed, empty=(1,))

    folder = tmp_path_factory.mktemp("pose")
    return make(folder, "keypoints", PoseByColour().eval(), pose_manifest(), write_people, measured)


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Kind:
    folder = tmp_path_factory.mktemp("panoptic")
    module = PanopticByColour().eval()
    return make(folder, "panoptic", module, panoptic_manifest(), write_meadows, write_meadows)


@pytest.fixture(scope="module", params=["keypoints", "panoptic"], ids=["people", "segments"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.getfixturevalue("pose" if request.param == "keypoints" else "panoptic")


@pytest.fixture(scope="module")
def calibrated(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("calibrated") / "every.bundle"
    shutil.copytree(kind.bundle.path, path)
    return calibrate_bundle(Bundle.open(path), CalibrationRequest(images=kind.calibration, count=8))


@pytest.fixture(scope="module")
def whole(kind: Kind, calibrated: Bundle) -> ParityReport:
    """The report of all precisions."""
    return compare(kind.request(calibrated.path)).report


# ---------------------------------------------------------------- what holds


def test_every_precision_passes_its_self_test(calibrated: Bundle) -> None:
    for precision in Precision:
        report = selftest(calibrated, precision=precision, threads=1)
        assert report.passed, report.failures


def test_goldens_of_people_hold_boxes_and_both_looks(pose: Kind) -> None:
    for golden in pose.bundle.manifest.goldens:
        assert len(golden.frames[0].boxes) == 1
        with np.load(pose.bundle.path / golden.frames[0].tensors) as tensors:
            assert tensors["heatmaps"].shape == (2, 2, 16, 12)


def test_parity_holds_in_every_precision(whole: ParityReport, kind: Kind) -> None:
    assert whole.passed, whole.failures()
    ran = [stage.name for stage in whole.stages if stage.status is Status.PASSED]
    assert ran[:6] == ["torch", "exported", "canonical", "fp32", "fp16", "int8"]
    words = {"keypoints": ("PCK@0.1", "people", "OKS"), "panoptic": ("PQ", "segments", "segment IoU")}
    assert (whole.metric, whole.things, whole.similarity) == words[kind.task]
    for name in ran[1:]:
        comparison = whole.comparison(name, Against.REFERENCE)
        assert comparison is not None
        assert comparison.images == IMAGES
        assert {check.level for check in comparison.checks} == set(Level)


def test_the_metric_is_measured_and_not_trivial(whole: ParityReport) -> None:
    value = whole.stage("torch").metrics[whole.metric]
    assert value is not None
    assert value > 0.8
    assert whole.stage("int8").metrics[whole.metric] == pytest.approx(value, abs=0.01)


def test_an_image_without_people_is_compared_and_agrees(pose: Kind) -> None:
    report = compare(pose.request()).report
    comparison = report.comparison("fp32", Against.REFERENCE)
    assert comparison is not None
    assert comparison.decoded is not None
    assert comparison.decoded.images_both_empty == 1
    assert comparison.decoded.reference_count == report.objects == 7


def test_maps_are_reported_by_their_equal_share(panoptic: Kind) -> None:
    comparison = compare(panoptic.request()).report.comparison("fp32", Against.REFERENCE)
    assert comparison is not None
    figures = {figure.name: figure for figure in comparison.tensors}
    assert [name for name, figure in figures.items() if figure.judged] == ["logits"]
    assert figures["segments"].equal == 1.0
    assert figures["segments"].relative is None
    assert figures["scores"].equal is None


def test_the_page_shows_the_kind(kind: Kind) -> None:
    compared = compare(kind.request())
    page = render_html(compared.report, compared.overlays)
    assert f"Scores of matched {compared.report.things}" in page
    assert len(compared.overlays) == 3
    for overlay in compared.overlays:
        assert [tile.title for tile in overlay.tiles] == ["ground truth", "torch", "FP32"]
        assert all(tile.jpeg for tile in overlay.tiles)


# ---------------------------------------------------------------- what must break


def spoilt(kind: Kind, folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The bundle with other weights in the FP32 file's largest tensor, whose new hash the manifest lists."""
    path = Path(shutil.copytree(kind.bundle.path, folder / "spoilt.bundle"))
    model = onnx.load(path / FP32_FILE)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    largest = max(weights, key=lambda tensor: int(np.prod(tensor.dims)))
    largest.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(largest)), largest.name))
    data = model.SerializeToString()
    (path / FP32_FILE).write_bytes(data)
    manifest = Bundle.open(path).manifest
    entry = FileEntry(path=FP32_FILE, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    files = tuple(entry if old.path == FP32_FILE else old for old in manifest.files)
    (path / MANIFEST).write_bytes(encode(msgspec.structs.replace(manifest, files=files)))
    return path


def next_map(weight: np.ndarray) -> np.ndarray:
    """Every map takes the place of the next: heads become feet, meadow becomes sky."""
    return np.ascontiguousarray(np.roll(weight, 1, axis=0))


def test_weights_that_find_something_else_break_all_levels(kind: Kind, tmp_path: Path) -> None:
    path = spoilt(kind, tmp_path, next_map)
    report = compare(replace(kind.request(path), overlays=0)).report
    comparison = report.comparison("fp32", Against.REFERENCE)
    assert comparison is not None
    assert {check.level for check in comparison.checks if not check.passed} == {
        Level.RAW,
        Level.DECODED,
        Level.METRIC,
    }
    assert comparison.divergence is not None
    assert comparison.divergence.layer is not None
    assert not selftest(Bundle.open(path), threads=1).passed


def test_datasets_of_another_vocabulary_are_refused(kind: Kind, tmp_path: Path) -> None:
    data = Path(shutil.copytree(kind.dataset, tmp_path / "scenes"))
    file = data / f"{kind.task.value}.json"
    name, message = {
        "keypoints": ('"foot"', "has the keypoints head, hand; the bundle has head, foot"),
        "panoptic": ('"sky"', r"calls 11 'hand' \(stuff\)"),
    }[kind.task]
    file.write_text(file.read_text().replace(name, '"hand"'))
    with pytest.raises(DatasetError, match=message):
        compare(replace(kind.request(), dataset=data))


def test_the_dataset_of_another_task_is_refused(pose: Kind, panoptic: Kind) -> None:
    with pytest.raises(DatasetError, match=r"keypoints\.json"):
        compare(replace(pose.request(), dataset=panoptic.dataset))


# ---------------------------------------------------------------- calibration


def test_people_are_calibrated_on_their_annotated_boxes(pose: Kind) -> None:
    request = CalibrationRequest(images=pose.calibration, count=8)
    images = choose_images(request, pose.bundle.manifest)
    assert all(sample.box is not None for sample in images.calibration.samples)
    assert all(sample.box is not None for sample in images.held_out)
    pictures = request.first_pictures(pose.bundle.manifest, 3)
    assert [one.boxes.boxes[0].tolist() for one in pictures if one.boxes is not None] == [
        list(sample.box or ()) for sample in images.calibration.samples[:3]
    ]
    folder = replace(request, images=pose.calibration / "images")
    assert all(
        sample.box is None for sample in choose_images(folder, pose.bundle.manifest).calibration.samples
    )


def test_segments_are_calibrated_on_the_listed_images(panoptic: Kind) -> None:
    """`panoptic/` holds images too; they are no pictures."""
    request = CalibrationRequest(images=panoptic.calibration, count=8)
    chosen = choose_images(request, panoptic.bundle.manifest).calibration
    assert {sample.path.parent.name for sample in chosen.samples} == {"images"}
    folder = CalibrationSet.from_folder(panoptic.calibration / "images", count=8)
    assert chosen.samples_sha256 == folder.samples_sha256


def test_the_calibration_set_cannot_be_measured_on(kind: Kind, calibrated: Bundle) -> None:
    with pytest.raises(DatasetError, match="calibration images were chosen from this dataset"):
        compare(replace(kind.request(calibrated.path), dataset=kind.calibration))


def test_int8_is_held_to_the_metric_of_its_task(kind: Kind, tmp_path: Path) -> None:
    path = Path(shutil.copytree(kind.bundle.path, tmp_path / "b.bundle"))
    request = CalibrationRequest(
        images=kind.calibration, count=8, validation=kind.dataset, precisions=(Precision.INT8,)
    )
    step = calibrate_bundle(Bundle.open(path), request).manifest.provenance.steps[-1]
    metric = {"keypoints": "PCK@0.1", "panoptic": "PQ"}[kind.task]
    assert f"and by {metric} on {IMAGES}" in step.detail


def test_a_drop_of_the_metric_breaks_the_int8_budget(kind: Kind, tmp_path: Path) -> None:
    """A graph that finds something else, where every level but the metric has room for it."""
    task = TaskMetric.of_dataset(kind.task, kind.dataset)
    right = onnx.load(kind.bundle.path / FP32_FILE)
    wrong = onnx.load(spoilt(kind, tmp_path, next_map) / FP32_FILE)

    def used(model: onnx.ModelProto, metric_drop: float) -> float:
        roomy = Budget(
            precision=Precision.INT8,
            tensor_relative_error=1e6,
            matched_fraction=0.0,
            similarity=0.0,
            score_difference=1.0,
            metric_drop=metric_drop,
        )
        manifest = msgspec.structs.replace(kind.bundle.manifest, budgets=(roomy,))
        graph = manifest.graphs["main"]
        held_out = choose_images(CalibrationRequest(images=kind.calibration, count=8), manifest).held_out
        samples = [Sample.of_picture(manifest, graph, picture) for picture in pictures_of(held_out)]
        return Agreement(manifest, graph, right, samples, task).budget_used(model, Precision.INT8)

    assert used(right, 0.01) == pytest.approx(0.0, abs=1e-6)
    assert used(wrong, 1.0) <= 1.0 < used(wrong, 0.01)
