"""Counting goes to float16 exactly where no value can be rounded there."""

import numpy as np
import onnx
import pytest

from edgewise.exporter.graph.edit import element_types
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.passes.exact_halves import counting_nodes, exact_halves

SIDES = (64, 128)
PIXELS = SIDES[0] * SIDES[1]


def covering(count: int = 8, factor: str = "1", threshold: str = "0.5") -> onnx.ModelProto:
    """How many pixels of each mask lie under the union of its rivals."""
    rivals = ", ".join([factor] * count**2)
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    counts (float[{count},{SIDES[0]},{SIDES[1]}] logits) => (float[{count}] common, float[{count}] kept)
    <float zero = {{0}}, float limit = {{{threshold}}}, float[{count},{count}] rivals = {{{rivals}}},
     int64[2] flat_shape = {{{count}, {PIXELS}}}, int64[1] last = {{1}}, float[1] area_limit = {{9}}>
    {{
        inside = Greater(logits, zero)
        masks = Cast <to = 1> (inside)
        flat = Reshape(masks, flat_shape)
        under = MatMul(rivals, flat)
        is_under = Greater(under, limit)
        covered = Cast <to = 1> (is_under)
        both = Mul(covered, flat)
        common = ReduceSum <keepdims = 0> (both, last)
        few = Less(common, area_limit)
        kept = Cast <to = 1> (few)
    }}"""
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def runner() -> PassRunner:
    rng = np.random.default_rng(0)
    return PassRunner([{"logits": rng.normal(-2, 1, (8, *SIDES)).astype(np.float32)}], ["common"])


def test_counts_up_to_2048_are_float16_and_larger_ones_are_not() -> None:
    model = covering()
    assert counting_nodes(model) == {"masks", "flat", "under", "is_under", "covered", "both"}
    result = runner().run(exact_halves(), model)
    types = element_types(result.model)
    halves = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT16}
    assert {"masks", "flat", "under", "covered"} <= halves
    assert types["common"] == types["kept"] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("changed", [{"factor": "0.5"}, {"factor": "300"}, {"factor": "-257"}])
def test_what_may_be_rounded_stays(changed: dict[str, str]) -> None:
    """Products that are not whole, or sums that may pass 2048."""
    model = covering(**changed)
    assert not {"under", "is_under"} & counting_nodes(model)
    runner().run(exact_halves(), model)


def test_a_limit_that_float16_rounds_is_compared_in_float32() -> None:
    chosen = counting_nodes(covering(threshold="0.1"))
    assert "is_under" not in chosen
    assert "under" in chosen


def test_small_tensors_are_not_worth_the_casts() -> None:
    model = covering()
    for value in (*model.graph.value_info, *model.graph.input):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = min(dim.dim_value, 16)
    assert counting_nodes(model) == frozenset()
