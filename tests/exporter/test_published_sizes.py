"""A model in its published size, with seeded weights, the whole way.

Other models have their rows in `docs/zoo.json`, made by the same function. Accuracy is the business of the
tiny checkpoints' tests; here nothing may need a plugin or be refused, and what the canonical graph says must
be what torch says. A two-stage model is in `test_two_stage_graph.py`, with weights: what a seeded one
proposes are near ties, on which suppression need not settle in INT8, and then its export is rightly refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from benchmarks.zoo import GRAPH_ONLY, prove
from edgewise.exporter.graph.conditions import opset_of
from edgewise.runtime.contract.manifest import Precision, Target

pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")

OUTPUT_ERROR = 1e-4
"""Largest relative error of a float output, canonical graph on ONNX Runtime against torch."""


@dataclass(frozen=True)
class Case:
    """A model, and its engines' sizes as shares of the FP32 engine's."""

    name: str
    fp16_share: float
    int8_share: float


PUBLISHED = (Case("yolact-r50", fp16_share=0.6, int8_share=0.4),)


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


@pytest.mark.slow(seconds=400, reason="a published size, the whole way in every precision")
@pytest.mark.parametrize("case", PUBLISHED, ids=[case.name for case in PUBLISHED])
def test_published_size_compiles_in_every_precision(case: Case, tmp_path: Path) -> None:
    row, bundle = prove(case.name, tmp_path)
    assert bundle.manifest.budgets == GRAPH_ONLY
    assert row.failure == ""
    assert row.nodes_simplified <= row.nodes_exported
    assert row.relative_error <= OUTPUT_ERROR
    assert row.differing <= OUTPUT_ERROR
    canonical = bundle.graph("main").canonical
    assert canonical is not None
    require_clean(onnx.load_model_from_string(bundle.read(canonical)))
    model = onnx.load_model_from_string(bundle.graph_bytes("main", Target.TENSORRT_RTX, Precision.FP32))
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert opset_of(model) == 17
    for precision in (Precision.FP16, Precision.INT8):
        engine = row.engines[precision.value]
        # The build has checked every node; the compiler may run two of them as one layer.
        assert engine.layers[precision.value] >= 0.9 * (row.weighted - engine.kept)
    size = {precision: row.engines[precision.value].megabytes for precision in Precision}
    assert size[Precision.FP16] < case.fp16_share * size[Precision.FP32]
    assert size[Precision.INT8] < case.int8_share * size[Precision.FP32]
