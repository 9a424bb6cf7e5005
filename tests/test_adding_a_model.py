"""`docs/adding-a-model.md` is true: its blocks, put together, make a model that goes the whole way."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgewise.exporter.parity import ParityRequest, compare
from edgewise.exporter.precision.calibration_images import CalibrationRequest
from edgewise.exporter.way.export import ExportOptions, export_checkpoint
from edgewise.models import registry
from edgewise.models.families.family import ModelEntry
from edgewise.models.scenes.dataset import write_dataset
from edgewise.models.training.loop import TrainingRequest, train
from edgewise.runtime import Session
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.frames.images import read_image
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import ModelError

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-model.md"
NAME = "pointer-small"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def entry() -> Iterator[ModelEntry]:
    """The page's model, known to the registry as long as the test lasts."""
    module = ModuleType("adding_a_model")
    sys.modules[module.__name__] = module  # msgspec looks annotations up there
    exec(compile("\n".join(blocks()), str(PAGE), "exec"), vars(module))
    yield registry.find(NAME)
    registry.unregister(NAME)
    del sys.modules[module.__name__]


def test_the_model_of_the_page_is_registered_and_forgotten_again(entry: ModelEntry) -> None:
    assert entry.vocabulary_size.keypoints == 17
    with pytest.raises(ModelError, match="is called"):
        registry.register(entry)
    registry.unregister(NAME)
    assert NAME not in registry.names()
    registry.register(entry)


@pytest.mark.slow(seconds=200, reason="trains the page's model and takes it the whole way")
def test_the_model_of_the_page_goes_the_whole_way(entry: ModelEntry, tmp_path: Path) -> None:
    scenes = write_dataset(tmp_path / "scenes", 60, seed=5)
    others = write_dataset(tmp_path / "others", 6, seed=6)
    checkpoint = train(TrainingRequest(entry, data=scenes, out=tmp_path / "pointer.safetensors"))
    calibration = CalibrationRequest(images=scenes, count=12)
    options = ExportOptions(calibration=calibration)
    bundle = export_checkpoint(checkpoint, tmp_path / "pointer.bundle", options)
    for precision in Precision:
        report = selftest(bundle, Target.ONNXRUNTIME, precision)
        assert report.passed, report.failures
    compared = compare(ParityRequest(bundle=bundle.path, dataset=others)).report
    fp32 = [found for found in compared.comparisons if found.candidate == Precision.FP32.value]
    assert fp32
    assert all(found.passed for found in fp32), compared.failures()
    with Session.open(bundle, precision="int8") as session:
        people = session(read_image(others / "images" / "000000.png"))
    assert isinstance(people, Keypoints)
    assert people.points.shape == (1, 17, 2)
