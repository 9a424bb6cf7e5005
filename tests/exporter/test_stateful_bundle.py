"""The whole way of a model of two graphs, of which one leaves a state that the other reads."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgewise.calibration.table import decode_table
from edgewise.exporter.bundle.goldens import Picture, drawn_frame
from edgewise.exporter.parity import Against, Level, ParityReport, ParityRequest, Status, compare
from edgewise.exporter.precision.agreement import Agreement, PreparedClip
from edgewise.exporter.precision.calibration_images import CalibrationRequest
from edgewise.exporter.precision.quantise import calibrate_bundle
from edgewise.exporter.way.export import ExportOptions, export_bundle
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.compare.checks import Check
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import CalibrationMethod, Precision, Target
from edgewise.runtime.engines.options import OnnxRuntimeOptions
from edgewise.runtime.frames.images import decode_image
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.system.errors import ExportError, ParityError
from edgewise.runtime.walk.walk import Preparation

from .blob_models import FRAME, blobs, blobs_manifest, write_clip
from .breaking import edit

ONE_THREAD = OnnxRuntimeOptions(threads=1)
FRAMES = 6
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("calibration") / "clip", 8, 1) / "images"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("data") / "clip", FRAMES, 2)


@pytest.fixture(scope="module")
def bundle(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Exported with calibration in one go; read only."""
    options = ExportOptions(calibration=CalibrationRequest(images=pictures, count=4))
    return export_bundle(blobs(), blobs_manifest(), tmp_path_factory.mktemp("blobs") / "b.bundle", options)


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(bundle.path, tmp_path / "copy.bundle")))


def parity_of(path: Path, dataset: Path) -> ParityReport:
    request = ParityRequest(bundle=path, dataset=dataset, module=blobs(), threads=1, overlays=0)
    return compare(request).report


def file_of(bundle: Bundle, graph: str, precision: Precision) -> str:
    return bundle.graph_entry(graph, Target.ONNXRUNTIME, precision).path


def model_of(bundle: Bundle, graph: str, precision: Precision = Precision.FP32) -> onnx.ModelProto:
    return onnx.load_model_from_string(bundle.read(file_of(bundle, graph, precision)))


# ---------------------------------------------------------------- what holds


@pytest.mark.slow
def test_both_graphs_have_every_precision_for_every_target(bundle: Bundle) -> None:
    bundle.verify()
    wanted = {(target, precision) for target in Target for precision in Precision}
    for name in ("key", "nonkey"):
        files = bundle.graph(name).files
        assert {(file.target, file.precision) for file in files} == wanted
        assert all(Path(file.path).name.startswith(f"{name}.") for file in files)
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert set(calibration.tables) == {"key", "nonkey"}
    assert len(set(calibration.tables.values())) == 2
    (int8,) = (each for each in bundle.manifest.precisions if each.precision is Precision.INT8)
    reads_image = {node.graph: node.node for node in int8.kept if "reads the image" in node.reason}
    assert reads_image == {"key": "features/0/Conv", "nonkey": "features/0/Conv"}


@pytest.mark.slow
def test_the_ranges_of_the_state_are_observed_on_a_walk(bundle: Bundle) -> None:
    """Only a walk gives the second graph anything but zeros to read."""
    calibration = bundle.manifest.calibration
    assert calibration is not None
    table = decode_table(bundle.read(calibration.tables["nonkey"]))
    (heat,) = (node for node in model_of(bundle, "nonkey").graph.node if node.name == "heat/Conv")
    # The mean of what is seen, at most about 0.9, and of what was left.
    assert table.tensors[heat.input[0]].maximum > 0.7


@pytest.mark.slow
def test_every_golden_is_a_clip_that_runs_both_graphs(bundle: Bundle) -> None:
    for golden in bundle.manifest.goldens:
        shown = []
        for frame in golden.frames:
            with np.load(bundle.path / frame.tensors) as tensors:
                shown.append("features" in tensors)
        assert shown == [True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(Precision))
def test_the_bundle_proves_itself_in_every_precision(bundle: Bundle, precision: Precision) -> None:
    report = selftest(bundle, ONE_THREAD, precision)
    assert report.passed, report.failures


@pytest.mark.slow
def test_parity_holds_over_a_clip(bundle: Bundle, dataset: Path) -> None:
    request = ParityRequest(bundle=bundle.path, dataset=dataset, module=blobs(), threads=1, overlays=2)
    compared = compare(request)
    report = compared.report
    assert report.passed, report.failures()
    ran = [stage.name for stage in report.stages if stage.status is Status.PASSED]
    assert ran[:7] == ["torch", "exported", "canonical", "fp32", "fp16", "int8", "int8.tensorrt"]
    assert report.objects == report.stage("torch").shown == 3 * FRAMES
    for name in ran[1:]:
        comparison = report.comparison(name, Against.REFERENCE)
        assert comparison is not None
        assert comparison.images == FRAMES
        assert {check.level for check in comparison.checks} == set(Level)
    fp32 = report.comparison("fp32", Against.REFERENCE)
    assert fp32 is not None
    assert [each.name for each in fp32.tensors if each.judged] == ["key.heat", "nonkey.heat"]
    metric = report.stage("torch").metrics["AP50"]
    assert metric is not None
    assert metric > 0.9
    assert len(compared.overlays) == 2
    for overlay in compared.overlays:
        assert all("3 instances shown" in tile.caption for tile in overlay.tiles[1:])
        assert [tile.title for tile in overlay.tiles] == ["ground truth", "torch", "FP32", "FP16", "INT8"]
        assert all(tile.jpeg for tile in overlay.tiles)


@pytest.mark.slow
def test_calibrating_again_exchanges_the_files_of_both_graphs(copied: Bundle, pictures: Path) -> None:
    before = copied.manifest
    request = CalibrationRequest(images=pictures, count=3, seed=5, method=CalibrationMethod.MINMAX)
    again = calibrate_bundle(copied, request)
    again.verify()
    assert again.manifest.calibration is not None
    for path in again.manifest.calibration.tables.values():
        table = decode_table(again.read(path))
        assert (table.sample_count, table.method) == (3, CalibrationMethod.MINMAX)
    on_disk = {path.relative_to(again.path).as_posix() for path in again.path.rglob("*") if path.is_file()}
    assert on_disk == {"manifest.json", *(entry.path for entry in again.manifest.files)}
    for precision in (Precision.FP16, Precision.INT8):
        assert selftest(again, ONE_THREAD, precision).passed
    back = calibrate_bundle(again, CalibrationRequest(images=pictures, count=4)).manifest
    contents = [{entry.sha256 for entry in manifest.files} for manifest in (before, back)]
    assert contents[0] == contents[1]


# ---------------------------------------------------------------- what must break


def weight_of(model: onnx.ModelProto, node: str) -> onnx.TensorProto:
    (found,) = (each for each in model.graph.node if each.name == node)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == found.input[1])
    return weight


def find_other_colours(model: onnx.ModelProto) -> None:
    """Red becomes green, green blue, blue red."""
    weight = weight_of(model, "heat/Conv")
    turned = np.ascontiguousarray(np.roll(numpy_helper.to_array(weight), 1, axis=0))
    weight.CopyFrom(numpy_helper.from_array(turned, weight.name))


def read_no_state(model: onnx.ModelProto) -> None:
    """The weights of what the frame before left become 0, and the others twice as large.

    On a still picture that makes no difference.
    """
    weight = weight_of(model, "mix/0/Conv")
    values = numpy_helper.to_array(weight).copy()
    half = values.shape[1] // 2
    values[:, :half] *= 2
    values[:, half:] = 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def leave_no_state(model: onnx.ModelProto) -> None:
    """The graph's own results stay, what it leaves becomes 0."""
    for node in model.graph.node:
        node.input[:] = ["inner" if name == "features" else name for name in node.input]
        node.output[:] = ["inner" if name == "features" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    model.graph.node.append(helper.make_node("Mul", ["inner", "nothing"], ["features"], name="forget"))


def name_unknown_classes(model: onnx.ModelProto) -> None:
    """Class indices that no manifest knows: what comes out cannot be decoded."""
    for node in model.graph.node:
        node.output[:] = ["known" if name == "classes" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.full((), 99, np.int32), "many"))
    model.graph.node.append(helper.make_node("Add", ["known", "many"], ["classes"], name="unknown"))


def failed_frames(bundle: Bundle, checks: tuple[Check, ...]) -> set[int]:
    """Places in their clips of the goldens that a self test found different."""
    places = {
        frame.image: place for golden in bundle.manifest.goldens for place, frame in enumerate(golden.frames)
    }
    return {places[check.sample] for check in checks if check.sample in places}


def failed_levels(report: ParityReport, stage: str) -> set[Level]:
    comparison = report.comparison(stage, Against.REFERENCE)
    assert comparison is not None
    return {check.level for check in comparison.checks if not check.passed}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "precision", "change", "frames", "layer"),
    [
        ("key", Precision.FP32, find_other_colours, {0, 2}, "heat/Conv"),
        ("nonkey", Precision.FP32, find_other_colours, {1}, "heat/Conv"),
        ("key", Precision.INT8, find_other_colours, {0, 2}, None),
        ("nonkey", Precision.INT8, find_other_colours, {1}, None),
        ("nonkey", Precision.FP32, read_no_state, {1}, "mix/0/Conv"),
        ("key", Precision.FP32, leave_no_state, {1}, "forget"),
        ("key", Precision.INT8, leave_no_state, {1}, None),
    ],
)
def test_a_broken_graph_is_found(
    copied: Bundle,
    dataset: Path,
    graph: str,
    precision: Precision,
    change: Change,
    frames: set[int],
    layer: str | None,
) -> None:
    """`frames` of every clip go wrong; the layer is named where errors exceed the budget's limit."""
    edit(copied.path, file_of(copied, graph, precision), change)
    broken = Bundle.open(copied.path)
    checked = selftest(broken, ONE_THREAD, precision)
    assert not checked.passed
    assert failed_frames(broken, checked.failures) == frames
    assert selftest(broken, ONE_THREAD, Precision.FP16).passed

    report = parity_of(broken.path, dataset)
    assert not report.passed
    assert {Level.RAW, Level.DECODED} <= failed_levels(report, precision.value)
    assert not failed_levels(report, "fp16")
    comparison = report.comparison(precision.value, Against.REFERENCE)
    assert comparison is not None
    wrong = "nonkey" if frames == {1} else "key"
    raw = [check for check in comparison.checks if check.level is Level.RAW and not check.passed]
    assert {check.subject for check in raw} == {f"{wrong}.heat"}
    assert comparison.divergence is not None
    assert comparison.divergence.against == "exported ONNX"
    named = comparison.divergence.layer
    assert (None if named is None else named.node) == layer


@pytest.mark.slow
def test_a_graph_is_judged_by_what_others_make_of_its_state(bundle: Bundle) -> None:
    """The state of `key` is no result of its own: only the other graph shows that it is wrong."""
    manifest = bundle.manifest
    prepare = Preparation(manifest)
    clips = []
    for golden in manifest.goldens:
        prepare.reset()
        images = [decode_image(bundle.read(frame.image), where=frame.image) for frame in golden.frames]
        clips.append(PreparedClip([prepare(Frame(0, "", image, 0.0)) for image in images]))
    agreement = Agreement(manifest, {name: model_of(bundle, name) for name in manifest.graphs}, clips)
    assert agreement.budget_used({}, Precision.FP16) == 0.0
    half, forgetful = model_of(bundle, "key", Precision.FP16), model_of(bundle, "key")
    leave_no_state(forgetful)
    assert 0.0 < agreement.budget_used({"key": half}, Precision.FP16) <= 1.0
    assert agreement.budget_used({"key": forgetful}, Precision.FP16) > 1.0
    unknown = model_of(bundle, "key")
    name_unknown_classes(unknown)
    assert agreement.budget_used({"key": unknown}, Precision.FP16) == math.inf  # and a search goes on


# ---------------------------------------------------------------- what is refused


def test_goldens_that_never_run_a_graph_are_refused(tmp_path: Path) -> None:
    picture = Picture(drawn_frame(FRAME, np.random.default_rng(3)))
    options = ExportOptions(clips=((picture,), (picture,)))
    with pytest.raises(ExportError, match="no golden clip runs the graph 'nonkey'"):
        export_bundle(blobs(), blobs_manifest(), tmp_path / "b.bundle", options)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_parity_wants_a_module_for_each_graph(bundle: Bundle, dataset: Path) -> None:
    alone = ParityRequest(bundle=bundle.path, dataset=dataset, module=blobs()["key"])
    with pytest.raises(ParityError, match=r"modules are given for \['main'\]"):
        compare(alone)
