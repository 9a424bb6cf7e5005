from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgewise.exporter.bundle.budgets import FP16
from edgewise.exporter.parity import tracks
from edgewise.exporter.parity.opening import Opened
from edgewise.exporter.parity.report import Against, Status
from edgewise.exporter.parity.stages import StageInfo
from edgewise.exporter.parity.tracks import Decoded, Image, PairTrack, StageTrack
from edgewise.models.tasks.instances.row import INSTANCES
from edgewise.models.tasks.task import Measuring
from edgewise.runtime.contract.manifest import (
    ClassLabel,
    DType,
    Graph,
    Manifest,
    Precision,
    Provenance,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import PrototypeInstances
from edgewise.runtime.contract.preprocessing import AsIs
from edgewise.runtime.decoding.decode import looks_of
from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.masks import crop_dense

SIZE = 16
SPECS = (
    TensorSpec(name="boxes", dtype=DType.FLOAT32, shape=(1, 2, 4)),
    TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, 2)),
    TensorSpec(name="classes", dtype=DType.INT32, shape=(1, 2)),
    TensorSpec(name="masks", dtype=DType.FLOAT32, shape=(1, 2, SIZE, SIZE)),
)
INFO = StageInfo("fp16", "FP16", Precision.FP16, "fp32", "models/fp16.onnx")
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


@dataclass
class ScriptedStage:
    """Gives the outputs of a script, one entry a run."""

    script: list[dict[str, Tensor]]
    info: StageInfo = INFO
    engine: str = "a script"
    tensors: tuple[TensorSpec, ...] = SPECS
    runs: int = 0

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        del feeds
        self.runs += 1
        return self.script[self.runs - 1]

    def close(self) -> None: ...


def image(number: int) -> Image:
    looks = looks_of(MANIFEST, np.zeros((SIZE, SIZE, 3), np.uint8))
    return Image(looks, [{"image": looks.looks[0].tensor}], number - 1, number)


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


def track(stage: ScriptedStage, measuring: Measuring) -> StageTrack:
    return StageTrack(Opened(INFO, stage), measuring, 0.3)


def test_a_stage_measures_its_results(measuring: Measuring) -> None:
    watched = track(ScriptedStage([outputs(), outputs()]), measuring)
    for number in (2, 3):
        found = watched.measure(MANIFEST, image(number))
        assert found is not None
        assert len(found.result) == 1
    assert (watched.status, watched.images, watched.shown) == (Status.PASSED, 2, 2)
    measured = measuring.value()
    assert (measured.value, measured.images) == (pytest.approx(1.0), 2)


def test_nan_costs_one_image_and_fails_the_stage(measuring: Measuring) -> None:
    broken = outputs()
    broken["masks"][0, 1, 0, 0] = np.nan
    stage = ScriptedStage([outputs(), broken, outputs()])
    watched = track(stage, measuring)
    assert [watched.measure(MANIFEST, image(number)) is None for number in (1, 2, 3)] == [False, True, False]
    assert watched.status is Status.FAILED
    assert watched.first_problem == 2
    assert watched.problem_lines() == ("masks holds NaN or infinity",)
    assert measuring.value().images == 2


def test_wrong_tensors_stop_a_stage(measuring: Measuring) -> None:
    wrong = outputs()
    wrong["scores_1"] = wrong.pop("scores")
    stage = ScriptedStage([wrong, outputs()])
    watched = track(stage, measuring)
    assert watched.measure(MANIFEST, image(1)) is None
    assert watched.measure(MANIFEST, image(2)) is None
    assert stage.runs == 1
    assert watched.status is Status.FAILED
    assert set(watched.problem_lines()) == {"missing: scores float32 [1, 2]", "undeclared: scores_1"}


def test_a_stage_that_is_not_run_is_not_passed(measuring: Measuring) -> None:
    idle = StageTrack(Opened(INFO, None, Status.NOT_RUN, "no NVIDIA GPU"), measuring, 0.3)
    assert idle.measure(MANIFEST, image(1)) is None
    assert idle.status is Status.NOT_RUN
    assert idle.problem_lines() == ("no NVIDIA GPU",)


def scored(score: float) -> Decoded:
    mask = np.zeros((1, SIZE, SIZE), np.bool_)
    mask[0, 2:10, 2:10] = True
    instances = Instances(
        boxes=np.array([[2, 2, 10, 10]], np.float32),
        scores=np.array([score], np.float32),
        classes=np.zeros(1, np.int32),
        masks=crop_dense(mask),
        labels=LABELS,
        frame_size=(SIZE, SIZE),
    )
    return Decoded([{"scores": np.array([score], np.float32)}], instances)


def test_an_image_that_one_side_lacks_is_not_counted() -> None:
    pair = PairTrack("fp16", "torch", (Against.REFERENCE,), FP16, 0.3)
    pair.add(1, scored(0.8), None)
    pair.add(2, None, scored(0.8))
    pair.add(3, scored(0.8), scored(0.75))
    assert pair.images == 1
    assert pair.sampled_scores == [(pytest.approx(0.75), pytest.approx(0.8))]


def test_the_sample_of_scores_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "SCORE_PAIRS", 8)
    pair = PairTrack("fp16", "torch", (Against.REFERENCE,), FP16, 0.3)
    for number in range(200):
        pair.add(number, scored(0.8), scored(0.4 + 0.5 * number / 200))
    assert len(pair.sampled_scores) == 8
    assert pair.decoded.pairs == 200
    assert max(reference for reference, _ in pair.sampled_scores) > 0.5, "later pairs are sampled too"
