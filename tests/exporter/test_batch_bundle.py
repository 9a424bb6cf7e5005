"""A bundle of several looks a launch, from export to parity; in each the looks are what they are alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgewise.exporter.graph.batch_axis import fix_batch, has_free_batch
from edgewise.exporter.graph.numerics import GraphRunner
from edgewise.exporter.parity import ParityRequest, compare
from edgewise.exporter.precision.calibration_images import CalibrationRequest
from edgewise.exporter.precision.quantise import calibrate_bundle
from edgewise.exporter.way.export import ExportOptions, export_bundle
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.engines.options import OnnxRuntimeOptions
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import open_source
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import ExportError
from edgewise.runtime.walk.session import Session

from .breaking import edit
from .colour_models import PoseByColour, pose_manifest, write_people

pytestmark = pytest.mark.slow

BATCH = 3
ONE_THREAD = OnnxRuntimeOptions(threads=1)


@dataclass(frozen=True)
class Made:
    bundle: Bundle
    dataset: Path
    module: PoseByColour


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Exported in FP32, then calibrated as a user would."""
    folder = tmp_path_factory.mktemp("batch")
    people = write_people(folder / "people", 14, 5)
    module = PoseByColour().eval()
    exported = export_bundle(
        {"main": module}, pose_manifest(), folder / "pose.bundle", ExportOptions(batch=BATCH)
    )
    bundle = calibrate_bundle(exported, CalibrationRequest(images=people, count=8))
    return Made(bundle, write_people(folder / "scenes", 3, 6), module)


def test_every_file_is_free_and_the_canonical_model_is_of_one_look(made: Made) -> None:
    graph = made.bundle.graph("main")
    assert graph.batch == BATCH
    assert graph.inputs[0].shape[0] == 1
    assert {file.precision for file in graph.files} == set(Precision)
    for file in graph.files:
        assert has_free_batch(onnx.load_model_from_string(made.bundle.model(file.path))), file.path
    assert not has_free_batch(onnx.load_model_from_string(made.bundle.model(str(graph.canonical))))


def crowd(frame: np.ndarray, count: int) -> FrameBoxes:
    height, width = frame.shape[:2]
    generator = np.random.default_rng(count)
    corner = generator.uniform(0, 0.4, (count, 2)) * (width, height)
    size = generator.uniform(0.4, 0.6, (count, 2)) * (width, height)
    return FrameBoxes(np.concatenate([corner, corner + size], axis=1), np.ones(count, np.float32))


@pytest.mark.parametrize("precision", list(Precision))
def test_people_of_a_launch_are_what_each_is_alone(made: Made, precision: Precision) -> None:
    (frame, *_) = open_source(str(made.dataset / "images"))
    with Session.open(made.bundle, backend=ONE_THREAD, precision=precision) as session:
        for count in range(2 * BATCH + 2):
            boxes = crowd(frame.image, count)
            together = session(frame.image, boxes)
            assert isinstance(together, Keypoints)
            for place in range(count):
                one = FrameBoxes(boxes.boxes[place : place + 1], boxes.scores[place : place + 1])
                alone = session(frame.image, one)
                assert isinstance(alone, Keypoints)
                np.testing.assert_array_equal(together.points[place], alone.points[0])
                np.testing.assert_array_equal(together.point_scores[place], alone.point_scores[0])


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("precision", list(Precision))
def test_what_pads_a_launch_changes_nothing(made: Made, target: Target, precision: Precision) -> None:
    """The form that an engine of exactly so many looks is built from, with other rows beside one."""
    model = onnx.load_model_from_string(made.bundle.graph_bytes("main", target, precision))
    runner = GraphRunner(fix_batch(model, BATCH))
    generator = np.random.default_rng(1)
    shape = (BATCH, *made.bundle.graph("main").inputs[0].shape[1:])
    looks = generator.integers(0, 256, shape, dtype=np.uint8)
    padded = [looks.copy() for _ in range(3)]
    padded[1][1:] = 0
    padded[2][1:] = looks[0]
    first, *others = (runner.run({"image": rows})["heatmaps"] for rows in padded)
    for other in others:
        np.testing.assert_array_equal(first[0], other[0])
    np.testing.assert_array_equal(others[1][0], others[1][2])


def test_every_precision_passes_its_self_test_in_launches_too(made: Made) -> None:
    for precision in Precision:
        report = selftest(made.bundle, ONE_THREAD, precision)
        assert report.passed, report.failures
        assert any("among" in str(check.sample) for check in report.checks)


def test_a_file_that_mixes_looks_fails_the_self_test(made: Made, tmp_path: Path) -> None:
    def mix(model: onnx.ModelProto) -> None:
        """Every look gets the mean of the launch."""
        (output,) = model.graph.output
        for node in model.graph.node:
            node.output[:] = ["own" if name == output.name else name for name in node.output]
        model.graph.node.append(onnx.helper.make_node("ReduceMean", ["own"], ["mean"], "mean", axes=[0]))
        model.graph.node.append(onnx.helper.make_node("Sub", ["own", "own"], ["zero"], "zero"))
        model.graph.node.append(onnx.helper.make_node("Add", ["mean", "zero"], [output.name], "mixed"))

    broken = tmp_path / "mixed.bundle"
    shutil.copytree(made.bundle.path, broken)
    edit(broken, "models/fp32.onnx", mix)
    report = selftest(Bundle.open(broken), ONE_THREAD)
    assert report.failures
    assert any("among" in str(check.sample) for check in report.failures)


def test_parity_holds(made: Made) -> None:
    request = ParityRequest(
        bundle=made.bundle.path, dataset=made.dataset, module=made.module, threads=1, overlays=0
    )
    report = compare(request).report
    assert report.passed, report


def test_a_batch_of_nothing() -> None:
    with pytest.raises(ExportError, match="a batch of 0 looks"):
        ExportOptions(batch=0)
