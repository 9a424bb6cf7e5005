from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from onnx import TensorProto, helper

from edgewise.exporter.from_torch.simplify import compare, simplify
from edgewise.exporter.graph.numerics import run_graph
from edgewise.exporter.way.export import CanonicalGraph
from edgewise.runtime.contract.manifest import DType, Graph, TensorSpec
from edgewise.runtime.system.errors import ExportError

Samples = list[dict[str, np.ndarray]]

GRAPH = Graph(
    inputs=(TensorSpec(name="image", dtype=DType.UINT8, shape=(1, 4, 4, 3)),),
    outputs=(TensorSpec(name="values", dtype=DType.FLOAT32, shape=(1, 3, 4, 4)),),
)
SAMPLES = [{"image": np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)}]


def model_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "edgewise",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, (1, 4, 4, 3))],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, (1, 3, 4, 4))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def cast_first() -> onnx.ModelProto:
    return model_of(
        helper.make_node("Cast", ["image"], ["real"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["values"], name="turn", perm=(0, 3, 1, 2)),
    )


def test_keeps_names_and_numbers(
    spots: ModuleType, spots_canonical: CanonicalGraph, spot_samples: Samples
) -> None:
    simplified = simplify(spots_canonical.exported, spots.draft_manifest().graphs["main"], spot_samples)
    assert len(simplified.graph.node) <= len(spots_canonical.exported.graph.node)
    assert not simplified.metadata_props
    before, after = (run_graph(model, spot_samples) for model in (spots_canonical.exported, simplified))
    for old, new in zip(before, after, strict=True):
        assert set(old) == set(new)
        np.testing.assert_allclose(new["heat"], old["heat"], rtol=1e-5)


@pytest.mark.slow
def test_folds_a_normalisation_into_its_convolution() -> None:
    from edgewise.exporter.from_torch.onnx_export import export_onnx

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.norm(self.convolution(image.float().permute(0, 3, 1, 2)))

    torch.manual_seed(0)
    exported = export_onnx(Normalised(), GRAPH, SAMPLES)
    simplified = simplify(exported, GRAPH, SAMPLES)
    assert [node.op_type for node in simplified.graph.node] == ["Cast", "Transpose", "Conv"]


def test_a_transpose_before_the_cast_is_refused() -> None:
    model = model_of(
        helper.make_node("Transpose", ["image"], ["turned"], name="turn", perm=(0, 3, 1, 2)),
        helper.make_node("Cast", ["turned"], ["values"], name="cast", to=TensorProto.FLOAT),
    )
    with pytest.raises(ExportError, match=r"goes into Transpose \(turn\) before a Cast"):
        simplify(model, GRAPH, SAMPLES)


def test_a_failure_of_onnxsim_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("\nno such schema\nmore")

    monkeypatch.setattr(onnxsim, "simplify", fail)
    with pytest.raises(ExportError, match="onnxsim failed") as caught:
        simplify(cast_first(), GRAPH, SAMPLES)
    assert caught.value.where == "no such schema"


def test_a_result_that_onnxsim_doubts_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxsim, "simplify", lambda model, **options: (model, False))
    with pytest.raises(ExportError, match="could not validate"):
        simplify(cast_first(), GRAPH, SAMPLES)


def test_moved_numbers_are_an_error() -> None:
    other = model_of(
        helper.make_node("Cast", ["image"], ["real"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["values"], name="turn", perm=(0, 3, 2, 1)),
    )
    with pytest.raises(ExportError, match="simplification changed the numbers on sample 0") as caught:
        compare(run_graph(cast_first(), SAMPLES), other, GRAPH, SAMPLES)
    assert caught.value.where == "values"
