"""The example's fixed shapes give what code that follows the data gives, and they export."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from edgewise.exporter.bundle.goldens import drawn_frame
from edgewise.exporter.way.export import ExportOptions, export_bundle
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract.manifest import Target

from .conftest import load_example


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_example("two_stage_detector")


def test_fixed_slots_hold_what_the_dynamic_code_finds(example: ModuleType) -> None:
    network = example.detector()
    generator = np.random.default_rng(4)
    counts = set()
    with torch.inference_mode():
        for _ in range(3):
            image = torch.from_numpy(drawn_frame((example.SIZE, example.SIZE), generator))[None]
            boxes, scores, classes = example.detect_dynamic(network, image)
            found = example.FixedDetector(network)(image)
            assert bool(found["settled"].all())
            count = len(scores)
            counts.add(count)
            np.testing.assert_allclose(found["scores"][0, :count], scores, atol=1e-5)
            np.testing.assert_allclose(found["boxes"][0, :count], boxes, atol=1e-3)
            assert found["classes"][0, :count].tolist() == classes.tolist()
            assert not found["scores"][0, count:].any()
    assert max(counts) > 2


@pytest.mark.slow(seconds=60, reason="exports a detector of two stages")
def test_it_exports_for_every_target_and_proves_itself(example: ModuleType, tmp_path: Path) -> None:
    bundle = export_bundle(
        {"main": example.FixedDetector(example.detector())},
        example.draft_manifest(),
        tmp_path / "b",
        ExportOptions(device_only=True),
    )
    assert {file.target for file in bundle.graph("main").files} == set(Target)
    report = selftest(bundle, Target.ONNXRUNTIME)
    assert report.passed, report.failures
