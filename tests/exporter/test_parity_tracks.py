from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgewise.exporter.bundle.budgets import FP16, INT8
from edgewise.exporter.parity import tracks
from edgewise.exporter.parity.opening import Opened
from edgewise.exporter.parity.report import Against, Status
from edgewise.exporter.parity.stages import Stage, StageInfo
from edgewise.exporter.parity.tracks import Decoded, PairTrack, PreparedImage, StageTrack
from edgewise.models.tasks.instances.row import INSTANCES
from edgewise.models.tasks.task import Measuring
from edgewise.runtime.contract.manifest import (
    ClassLabel,
    DType,
    Graph,
    Manifest,
    Precision,
    Provenance,
    StateTensor,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import PrototypeInstances
from edgewise.runtime.contract.preprocessing import AsIs
from edgewise.runtime.engines.base import HostState, Tensor
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.walk.walk import Preparation

SIZE = 16
SPECS = (
    TensorSpec(name="boxes", dtype=DType.FLOAT32, shape=(1, 2, 4)),
    TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, 2)),
    TensorSpec(name="classes", dtype=DType.INT32, shape=(1, 2)),
    TensorSpec(name="masks", dtype=DType.FLOAT32, shape=(1, 2, SIZE, SIZE)),
)
INFO = StageInfo("fp16", "FP16", Precision.FP16, "fp32", {"main": "models/fp16.onnx"})
LABELS = (ClassLabel(id=1, name="square"),)
MANIFEST = Manifest(
    writer="test",
    name="squares",
    classes=LABELS,
    provenance=Provenance(definition="test"),
    graphs={
        "main": Graph(
            inputs=(TensorSpec(name="image", dtype=DType.UINT8, shape=(1, SIZE, SIZE, 3)),), outputs=SPECS
        )
    },
    preprocess=AsIs(size=(SIZE, SIZE)),
    postprocess=PrototypeInstances(),
)


def outputs() -> dict[str, Tensor]:
    """One square of score 0.8 and an empty slot."""
    masks = np.zeros((1, 2, SIZE, SIZE), np.float32)
    masks[0, 0, 2:10, 2:10] = 1.0
    return {
        "boxes": np.array([[[2, 2, 10, 10], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.8, 0.0]], np.float32),
        "classes": np.zeros((1, 2), np.int32),
        "masks": masks,
    }


class Script(HostState):
    """A runner that gives the outputs of a script, one entry a run."""

    def __init__(self, *entries: dict[str, Tensor]) -> None:
        self.name = "a script"
        self.runs = 0
        self._entries = entries

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        del inputs
        self.runs += 1
        return self._entries[self.runs - 1]


def image(number: int) -> PreparedImage:
    frame = Frame(number - 1, f"{number}.png", np.zeros((SIZE, SIZE, 3), np.uint8), 0.0)
    return PreparedImage(Preparation(MANIFEST)(frame), number - 1, number)


@pytest.fixture
def measuring(tmp_path: Path) -> Measuring:
    """Mask AP on three pictures with the one square that a good stage finds."""
    box = [2, 2, 8, 8]
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE}
            for number in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": box,
                "area": 64,
                "segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]],
            }
            for number in (1, 2, 3)
        ],
    }
    for number in (1, 2, 3):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return INSTANCES.metric.begin(INSTANCES.dataset.open(tmp_path))


def track(
    runner: Script,
    measuring: Measuring,
    manifest: Manifest = MANIFEST,
    specs: Sequence[TensorSpec] = SPECS,
) -> StageTrack:
    stage = Stage(INFO, {"main": runner}, {"main": tuple(specs)})
    return StageTrack(Opened(INFO, stage), manifest, measuring)


def test_a_stage_measures_its_results(measuring: Measuring) -> None:
    watched = track(Script(outputs(), outputs()), measuring)
    for number in (2, 3):
        found = watched.measure(image(number))
        assert found is not None
        assert len(found.result) == 1
    assert (watched.status, watched.images, watched.shown) == (Status.PASSED, 2, 2)
    measured = measuring.value()
    assert (measured.value, measured.images) == (pytest.approx(1.0), 2)


def test_nan_costs_one_image_and_fails_the_stage(measuring: Measuring) -> None:
    broken = outputs()
    broken["masks"][0, 1, 0, 0] = np.nan
    watched = track(Script(outputs(), broken, outputs()), measuring)
    assert [watched.measure(image(number)) is None for number in (1, 2, 3)] == [False, True, False]
    assert watched.status is Status.FAILED
    assert watched.first_problem == 2
    assert watched.problem_lines() == ("masks holds NaN",)
    assert measuring.value().images == 2


def test_wrong_tensors_stop_a_stage(measuring: Measuring) -> None:
    wrong = outputs()
    wrong["scores_1"] = wrong.pop("scores")
    script = Script(wrong, outputs())
    watched = track(script, measuring)
    assert watched.measure(image(1)) is None
    assert watched.measure(image(2)) is None
    assert script.runs == 1
    assert watched.status is Status.FAILED
    assert set(watched.problem_lines()) == {"missing: scores float32 [1, 2]", "undeclared: scores_1"}


def with_state() -> Manifest:
    """The same graph, which leaves a number for its next run."""
    left = TensorSpec(name="left", dtype=DType.FLOAT32, shape=(1, 1))
    found = msgspec.structs.replace(left, name="found")
    (graph,) = MANIFEST.graphs.values()
    graph = msgspec.structs.replace(graph, inputs=(*graph.inputs, found), outputs=(*SPECS, left))
    state = StateTensor(name="number", spec=left, source="main.left", sinks=("main.found",))
    return msgspec.structs.replace(MANIFEST, graphs={"main": graph}, state=(state,))


def test_nan_stops_a_stage_with_state(measuring: Measuring) -> None:
    """What it would give for later images comes from a state that no other stage has."""
    manifest, left = with_state(), {"left": np.zeros((1, 1), np.float32)}
    broken = outputs()
    broken["masks"][0, 1, 0, 0] = np.nan
    script = Script(outputs() | left, broken | left, outputs() | left)
    watched = track(script, measuring, manifest, manifest.graphs["main"].outputs)
    assert [watched.measure(image(number)) is None for number in (1, 2, 3)] == [False, True, True]
    assert script.runs == 2
    assert watched.status is Status.FAILED
    assert watched.first_problem == 2
    assert set(watched.problem_lines()) == {
        "masks holds NaN",
        "stopped, because the frames behind a problem would start from a wrong state",
    }


def test_a_stage_that_is_not_run_is_not_passed(measuring: Measuring) -> None:
    idle = StageTrack(Opened(INFO, None, Status.NOT_RUN, "no NVIDIA GPU"), MANIFEST, measuring)
    assert idle.measure(image(1)) is None
    assert idle.status is Status.NOT_RUN
    assert idle.problem_lines() == ("no NVIDIA GPU",)


def scored(score: float, corner: float | None = None) -> Decoded:
    """A square of one score, and before or behind it a smaller one in the corner where that has one."""
    things = sorted([(score, 2, 10), *([] if corner is None else [(corner, 11, 15)])], reverse=True)
    masks = np.zeros((len(things), SIZE, SIZE), np.bool_)
    for mask, (_, start, end) in zip(masks, things, strict=True):
        mask[start:end, start:end] = True
    scores = np.array([each for each, _, _ in things], np.float32)
    instances = Instances(
        boxes=np.array([(start, start, end, end) for _, start, end in things], np.float32),
        scores=scores,
        classes=np.zeros(len(things), np.int32),
        masks=crop_dense(masks),
        labels=LABELS,
        frame_size=(SIZE, SIZE),
    )
    return Decoded([{"scores": scores}], instances)


def test_an_image_that_one_side_lacks_is_not_counted() -> None:
    pair = PairTrack("fp16", "torch", (Against.REFERENCE,), MANIFEST, FP16)
    pair.add(1, scored(0.8), None)
    pair.add(2, None, scored(0.8))
    pair.add(3, scored(0.8), scored(0.75))
    assert pair.images == 1
    assert pair.sampled_scores == [(pytest.approx(0.75), pytest.approx(0.8))]


def test_scores_are_paired_by_object_not_by_rank() -> None:
    pair = PairTrack("int8", "torch", (Against.REFERENCE,), MANIFEST, INT8)
    pair.add(1, scored(0.6, 0.7), scored(0.9, 0.8))
    assert sorted(pair.sampled_scores) == [
        (pytest.approx(0.8), pytest.approx(0.7)),
        (pytest.approx(0.9), pytest.approx(0.6)),
    ]


def test_the_sample_of_scores_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "SCORE_PAIRS", 8)
    pair = PairTrack("fp16", "torch", (Against.REFERENCE,), MANIFEST, FP16)
    for number in range(200):
        pair.add(number, scored(0.8), scored(0.4 + 0.5 * number / 200))
    assert len(pair.sampled_scores) == 8
    assert pair.decoded.pairs == 200
    assert max(reference for reference, _ in pair.sampled_scores) > 0.5, "later pairs are sampled too"
