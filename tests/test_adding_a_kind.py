"""`docs/adding-a-kind.md` is true: its blocks make a kind that goes the whole way; no file knows it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgewise.exporter.bundle.writer import write_bundle
from edgewise.exporter.parity import Against, Level, ParityRequest, compare
from edgewise.exporter.precision.calibration_images import CalibrationRequest
from edgewise.exporter.way.export import ExportOptions, export_bundle
from edgewise.models.measuring import tasks
from edgewise.models.scenes.dataset import write_dataset
from edgewise.models.scenes.vocabulary import LABELS
from edgewise.runtime.command.cli import app
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract import postprocessing
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.encoding import decode, encode
from edgewise.runtime.contract.manifest import DType, Graph, Manifest, Precision, Provenance, TensorSpec
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.decoding import kinds
from edgewise.runtime.system.errors import ManifestError

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-kind.md"
SIZE = (64, 64)


@pytest.fixture
def page() -> Iterator[ModuleType]:
    """The page's kind and task, known as long as the test lasts."""
    module = ModuleType("adding_a_kind")
    sys.modules[module.__name__] = module  # msgspec looks annotations up there
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile("\n".join(blocks), str(PAGE), "exec"), vars(module))
    yield module
    del kinds.KINDS[module.ClassCounts]
    del postprocessing._KNOWN["class-counts"]
    del tasks.TASKS["counts"]
    del sys.modules[module.__name__]


class Counter(nn.Module):
    """Counts by brightness: no good counter, but its numbers follow the picture."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 5, stride=4)
        self.second = nn.Conv2d(8, 8, 3)
        self.head = nn.Conv2d(8, len(LABELS), 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        pixels = image.float().permute(0, 3, 1, 2) / 255.0
        features = torch.relu(self.second(torch.relu(self.first(pixels))))
        return (self.head(features).mean(dim=(2, 3)).abs() * 10.0,)


def draft(page: ModuleType) -> Manifest:
    return Manifest(
        writer="a test",
        name="counter",
        classes=LABELS,
        provenance=Provenance(definition="tests.Counter"),
        graphs={
            "main": Graph(
                inputs=(TensorSpec(name="image", dtype=DType.UINT8, shape=(1, *SIZE, 3)),),
                outputs=(TensorSpec(name="counts", dtype=DType.FLOAT32, shape=(1, len(LABELS))),),
            )
        },
        preprocess=Stretch(size=SIZE),
        postprocess=page.ClassCounts(),
    )


def test_a_kind_is_unknown_until_it_is_registered(page: ModuleType) -> None:
    data = encode(draft(page))
    assert decode(data) == draft(page)
    del postprocessing._KNOWN["class-counts"]
    with pytest.raises(ManifestError, match="of the kind 'class-counts'"):
        decode(data)
    postprocessing.declare(page.ClassCounts)
    with pytest.raises(ManifestError, match="has a kind already"):
        kinds.register(page.COUNTS)


@pytest.mark.slow
def test_the_kind_of_the_page_goes_the_whole_way(page: ModuleType, tmp_path: Path) -> None:
    scenes = write_dataset(tmp_path / "scenes", 20, seed=5, size=96)
    others = write_dataset(tmp_path / "others", 4, seed=6, size=96)
    # Nothing of so small a network is worth INT8 codes.
    precisions = (Precision.FP16,)
    calibration = CalibrationRequest(images=scenes / "images", count=8, precisions=precisions)
    options = ExportOptions(calibration=calibration)
    bundle = export_bundle({"main": Counter()}, draft(page), tmp_path / "counter.bundle", options)
    assert bundle.manifest.task == "counts"
    for precision in (Precision.FP32, *precisions):
        report = selftest(bundle, precision=precision)
        assert report.passed, report.failures

    request = ParityRequest(bundle=bundle.path, dataset=others, module=Counter())
    compared = compare(request).report
    assert compared.passed, compared.failures()
    assert (compared.metric, compared.things) == ("count accuracy", "counts")

    out = tmp_path / "out"
    app(["run", str(bundle.path), str(others / "images"), "-o", str(out)], standalone_mode=False)
    records = json.loads((out / "results.json").read_text())
    assert len(records) == 4 * len(LABELS)
    assert set(records[0]) == {"image_id", "category_id", "count"}
    drawn = cv2.imread(str(sorted((out / "overlay").iterdir())[0])).astype(int)
    assert np.abs(drawn - cv2.imread(str(sorted((others / "images").iterdir())[0]))).max() > 60

    broken = with_wrong_weights(bundle, tmp_path / "broken.bundle")
    assert {check.level for check in selftest(broken).failures} == {Level.RAW, Level.DECODED}
    failed = compare(replace(request, bundle=broken.path)).report
    fp32 = failed.comparison("fp32", Against.REFERENCE)
    assert fp32 is not None
    assert {check.level for check in fp32.checks if not check.passed} >= {Level.RAW, Level.DECODED}


def with_wrong_weights(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle again with another FP32 file and the right hash."""
    files = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    model = onnx.load_model_from_string(files["models/fp32.onnx"])
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(3), tensor.name))
    return write_bundle(folder, bundle.manifest, {**files, "models/fp32.onnx": model.SerializeToString()})


def test_no_existing_file_knows_the_kind_of_the_page() -> None:
    root = PAGE.parents[1]
    for package in ("runtime", "calibration", "models", "exporter"):
        for file in (root / package).rglob("*.py"):
            text = file.read_text()
            assert "ClassCounts" not in text
            assert "class-counts" not in text
