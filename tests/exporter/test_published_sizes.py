"""Models in their published sizes, with seeded weights: exported, calibrated, compiled in every precision.

Accuracy is the business of the tiny checkpoints' tests; here nothing may need a plugin or be refused, and
what the canonical graph says must be what torch says.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from edgewise.exporter.bundle.model_files import name_model_files
from edgewise.exporter.bundle.writer import write_bundle
from edgewise.exporter.engines.build import BuildOptions, build_engine
from edgewise.exporter.from_torch.onnx_export import comparable_names, run_module
from edgewise.exporter.graph.conditions import opset_of
from edgewise.exporter.graph.numerics import Tensors, network_inputs, relative_error, run_graph
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.passes.fp16 import choose_fp16, narrow_nodes
from edgewise.exporter.precision.typed_graphs import explained
from edgewise.exporter.targets.lowering import lower_for
from edgewise.exporter.way.export import canonical_graph
from edgewise.models.data.vocabulary import Vocabulary, VocabularySize
from edgewise.models.scenes.scene import render_scene
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import (
    CalibrationMethod,
    ClassKind,
    ClassLabel,
    DType,
    Graph,
    KeptNode,
    KeypointLayout,
    Manifest,
    Precision,
    PrecisionRecord,
    Provenance,
    Target,
)
from edgewise.runtime.decoding.decode import looks_of

pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
torch = pytest.importorskip("torch")

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")

OUTPUT_ERROR = 1e-4
"""Largest relative error of a float output, canonical graph on ONNX Runtime against torch."""


@dataclass(frozen=True)
class Case:
    """A model with the sizes of its engines as shares of the FP32 engine's."""

    name: str
    fp16_share: float = 0.6
    int8_share: float = 0.4


PUBLISHED = (
    Case("yolact-r50"),
    Case("yolact-r101"),
    Case("yolact-darknet53"),
    Case("upsnet-r50-coco", fp16_share=0.8, int8_share=0.8),
    Case("hourglass-8", int8_share=0.8),
)


def vocabulary_of(size: VocabularySize) -> Vocabulary:
    """Numbered things, stuff and keypoints; one thing where there are none, as a figure needs."""
    things = [ClassLabel(id=number, name=f"thing {number}") for number in range(1, max(1, size.things) + 1)]
    stuff = [
        ClassLabel(id=1000 + number, name=f"stuff {number}", kind=ClassKind.STUFF)
        for number in range(size.stuff)
    ]
    points = tuple(f"point {number}" for number in range(size.keypoints))
    layout = KeypointLayout(names=points, sigmas=(0.05,) * len(points)) if points else None
    return Vocabulary((*things, *stuff), layout)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), render_scene(7, number, (480, 640)).image)
    return folder


@pytest.fixture(autouse=True)
def memory_given_back() -> Iterator[None]:
    yield
    gc.collect()


@dataclass(frozen=True)
class Exported:
    """The bundle; for every output of the canonical graph its error, and its share of values that differ."""

    bundle: Bundle
    errors: dict[str, float]
    others: dict[str, float]


def export_every_precision(name: str, images: Path, folder: Path) -> Exported:
    """The bundle that `edgewise export` would write, without goldens and without a judgement of accuracy."""
    from edgewise.models import registry

    entry = registry.find(name)
    torch.manual_seed(0)
    module = entry.deploy(entry.build().eval())
    draft = entry.manifest(vocabulary_of(entry.vocabulary_size), Provenance(definition=f"registry:{name}"))
    graph = draft.graphs["main"]
    chosen = CalibrationSet.from_folder(images, count=2, seed=0)
    frame = cv2.imread(str(chosen.samples[0].path))
    samples = network_inputs(graph, looks_of(draft, frame))[:1]
    reference = run_module(module, graph, samples[0])
    made = canonical_graph(module, graph, samples, [reference])
    values = run_graph(made.canonical, samples)[0]
    errors = {output: relative_error(value, reference[output]) for output, value in values.items()}
    others = {output: float(np.mean(value != reference[output])) for output, value in values.items()}
    require_clean(made.canonical)
    fp32 = made.fp32
    del made, module, values, reference
    table = calibrate(fp32, chosen, draft.preprocess, method=CalibrationMethod.MINMAX)
    ranges = {tensor: (found.minimum, found.maximum) for tensor, found in table.tensors.items()}
    probes = [spec.name for spec in graph.probes]
    islands = choose_fp16(fp32, ranges, probes=probes)
    placement = place(fp32)
    quantised = quantise_s8(fp32, table, placement)
    wider = choose_fp16(quantised, ranges, probes=probes, only={node.node for node in placement.kept})
    files = {Precision.FP32: lowered(fp32, graph, samples)}
    files[Precision.INT8] = lowered(narrow_nodes(quantised, wider.narrow), graph)
    del quantised
    files[Precision.FP16] = lowered(narrow_nodes(fp32, islands.narrow), graph)
    kept = {Precision.FP16: islands.kept, Precision.INT8: explained(placement.kept, wider)}
    return Exported(write_bundle(folder, *described(draft, files, kept)), errors, others)


def lowered(model: onnx.ModelProto, graph: Graph, samples: Sequence[Tensors] = ()) -> bytes:
    """The graph for TensorRT-RTX; its numbers are compared on the samples, which cost minutes."""
    runner = PassRunner(samples, comparable_names(graph))
    return lower_for(model, Target.TENSORRT_RTX, runner).SerializeToString(deterministic=True)


def require_clean(canonical: onnx.ModelProto) -> None:
    """The image is cast first, nothing depends on data, no constant is stored twice."""
    assert canonical.graph.node[0].op_type == "Cast"
    kinds = {node.op_type for node in canonical.graph.node}
    assert not {"GatherND", "ScatterND", "NonZero", "NonMaxSuppression", "If", "Loop", "Range"} & kinds
    large = [
        (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        for tensor in canonical.graph.initializer
        if len(tensor.raw_data) > 65536
    ]
    assert len(set(large)) == len(large)


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
@pytest.mark.parametrize("case", PUBLISHED, ids=[case.name for case in PUBLISHED])
def test_published_size_compiles_in_every_precision(
    case: Case, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.perf_counter()
    exported = export_every_precision(case.name, images, tmp_path / "model.bundle")
    bundle, seconds = exported.bundle, time.perf_counter() - started
    model = onnx.load_model_from_string(bundle.graph_bytes("main", Target.TENSORRT_RTX, Precision.FP32))
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert opset_of(model) == 17
    weighted = sum(node.op_type in WEIGHTED for node in model.graph.node)
    del model
    records = {}
    for precision in Precision:
        options = BuildOptions(compute_capabilities=("sm86",), output=tmp_path / "engines")
        records[precision] = build_engine(bundle, Target.TENSORRT_RTX, precision, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    with capsys.disabled():
        print(f"\n{case.name}: {weighted} nodes with weights, exported and typed in {seconds:.0f} s, "
              f"peak memory so far {peak:.1f} GB")  # fmt: skip
        print(
            "  against torch: " + ", ".join(f"{name} {error:.1g}" for name, error in exported.errors.items())
        )
        for precision, record in records.items():
            print(f"  {precision.value}: {record.build_seconds:5.1f} s {record.size / 1e6:6.1f} MB "
                  f"{record.realised.layers}")  # fmt: skip
    specs = (*bundle.graph("main").outputs, *bundle.graph("main").probes)
    for spec in specs:
        if spec.dtype is DType.FLOAT32:
            assert exported.errors[spec.name] <= OUTPUT_ERROR, spec.name
        else:
            assert exported.others[spec.name] <= OUTPUT_ERROR, spec.name
    kept = {entry.precision: entry.kept for entry in bundle.manifest.precisions}
    for precision in (Precision.FP16, Precision.INT8):
        narrow = records[precision].realised.layers[precision.value]
        # The build has checked every node; the compiler may run two of them as one layer.
        assert narrow >= 0.9 * (weighted - len(kept[precision]))
    assert records[Precision.FP16].size < case.fp16_share * records[Precision.FP32].size
    assert records[Precision.INT8].size < case.int8_share * records[Precision.FP32].size
