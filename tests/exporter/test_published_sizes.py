"""YOLACT in its published sizes, with seeded weights: exported, calibrated, and compiled in every precision.

Accuracy is the business of the tiny checkpoint's tests; here nothing may need a plugin or be refused.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest

from edgewise.calibration.collect import calibrate
from edgewise.calibration.placement import place
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.samples import CalibrationSet
from edgewise.exporter.build import BuildOptions, build_engine
from edgewise.exporter.bundle_writer import write_bundle
from edgewise.exporter.export import canonical_graph
from edgewise.exporter.fp16 import choose_fp16, narrow_nodes
from edgewise.exporter.goldens import drawn_frame
from edgewise.exporter.lowering import lower_for
from edgewise.exporter.model_files import name_model_files
from edgewise.exporter.numerics import network_inputs
from edgewise.models.vocabulary import Vocabulary
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.manifest import (
    CalibrationMethod,
    ClassLabel,
    KeptNode,
    Manifest,
    Precision,
    PrecisionRecord,
    Provenance,
    Target,
)
from edgewise.runtime.views import views_of

pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
torch = pytest.importorskip("torch")

PUBLISHED = ("yolact-r50", "yolact-r101", "yolact-darknet53")
LABELS = tuple(ClassLabel(id=number, name=f"class {number}") for number in range(1, 81))
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), drawn_frame((480, 640), generator))
    return folder


@pytest.fixture(autouse=True)
def memory_given_back() -> Iterator[None]:
    yield
    gc.collect()


def export_every_precision(name: str, images: Path, folder: Path) -> Bundle:
    """The bundle that `edgewise export` would write, without goldens and without a judgement of accuracy."""
    from edgewise.models import registry

    entry = registry.find(name)
    torch.manual_seed(0)
    module = entry.deploy(entry.build().eval())
    draft = entry.manifest(Vocabulary(LABELS), Provenance(definition=f"registry:{name}"))
    graph = draft.graphs["main"]
    chosen = CalibrationSet.from_folder(images, count=2, seed=0)
    frame = cv2.imread(str(chosen.samples[0].path))
    made = canonical_graph(module, graph, network_inputs(graph, views_of(draft, frame))[:1])
    fp32 = made.fp32
    del made, module
    table = calibrate(fp32, chosen, draft.preprocess, method=CalibrationMethod.MINMAX)
    ranges = {tensor: (found.minimum, found.maximum) for tensor, found in table.tensors.items()}
    probes = [spec.name for spec in graph.probes]
    islands = choose_fp16(fp32, ranges, probes=probes)
    placement = place(fp32)
    quantised = quantise_s8(fp32, table, placement)
    wider = choose_fp16(quantised, ranges, probes=probes, only={node.node for node in placement.kept})
    half = tuple(node for node in placement.kept if node.node in wider.narrow)
    files = {Precision.FP32: lowered(fp32)}
    files[Precision.INT8] = lowered(narrow_nodes(quantised, wider.narrow))
    files[Precision.FP16] = lowered(narrow_nodes(fp32, islands.narrow))
    kept = {Precision.FP16: islands.kept, Precision.INT8: (*half, *wider.kept)}
    return write_bundle(folder, *described(draft, files, kept))


def lowered(model: onnx.ModelProto) -> bytes:
    return lower_for(model, Target.TENSORRT_RTX).SerializeToString(deterministic=True)


def described(
    draft: Manifest, files: dict[Precision, bytes], kept: dict[Precision, tuple[KeptNode, ...]]
) -> tuple[Manifest, dict[str, bytes]]:
    named = name_model_files("main", {(Target.TENSORRT_RTX, key): data for key, data in files.items()})
    graph = msgspec.structs.replace(draft.graphs["main"], canonical=None, files=named.entries)
    records = tuple(
        PrecisionRecord(precision=precision, asked="", kept=kept.get(precision, ())) for precision in files
    )
    return msgspec.structs.replace(draft, graphs={"main": graph}, precisions=records), dict(named.files)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size_compiles_in_every_precision(
    name: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.perf_counter()
    bundle = export_every_precision(name, images, tmp_path / "model.bundle")
    exported = time.perf_counter() - started
    model = onnx.load_model_from_string(bundle.graph_bytes("main", Target.TENSORRT_RTX, Precision.FP32))
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    weighted = sum(node.op_type in WEIGHTED for node in model.graph.node)
    del model
    records = {}
    for precision in Precision:
        options = BuildOptions(compute_capabilities=("sm86",), output=tmp_path / "engines")
        records[precision] = build_engine(bundle, Target.TENSORRT_RTX, precision, options)
    with capsys.disabled():
        print(f"\n{name}: {weighted} nodes with weights, exported and typed in {exported:.0f} s")
        for precision, record in records.items():
            print(f"  {precision.value}: {record.build_seconds:5.1f} s {record.size / 1e6:6.1f} MB "
                  f"{record.realised.layers}")  # fmt: skip
    kept = {entry.precision: entry.kept for entry in bundle.manifest.precisions}
    for precision in (Precision.FP16, Precision.INT8):
        narrow = records[precision].realised.layers[precision.value]
        assert narrow >= weighted - len(kept[precision])
    assert records[Precision.FP16].size < 0.6 * records[Precision.FP32].size
    assert records[Precision.INT8].size < 0.4 * records[Precision.FP32].size
