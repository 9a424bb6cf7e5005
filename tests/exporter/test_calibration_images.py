"""Which images of a folder of scenes calibrate: the pictures that the task's file lists, for every task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgewise.exporter.precision.calibration_images import CalibrationRequest, choose_images
from edgewise.models import registry
from edgewise.models.measuring.tasks import TASKS
from edgewise.models.scenes import write_dataset
from edgewise.runtime.contract.manifest import Provenance


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("calibration") / "scenes", 12, 5, 96)


@pytest.mark.parametrize("task", TASKS)
def test_a_folder_of_scenes_gives_its_pictures(task: str, scenes: Path) -> None:
    """`panoptic/` holds images too; they are no pictures."""
    assert (scenes / TASKS[task].dataset.file_name).is_file()
    entry = next(entry for entry in map(registry.find, registry.names()) if entry.task == task)
    vocabulary = TASKS[task].dataset.open(scenes).vocabulary
    manifest = (
        replace(entry, config=entry.family.micro)
        .fit(vocabulary)
        .manifest(vocabulary, Provenance(definition="t"))
    )
    for seed in range(4):
        chosen = choose_images(CalibrationRequest(images=scenes, count=3, held_out=3, seed=seed), manifest)
        together = (*chosen.calibration.samples, *chosen.held_out)
        assert {sample.path.parent.name for sample in together} == {"images"}
