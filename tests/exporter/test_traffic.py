"""The bytes that a graph's kernels move, counted by hand for small graphs."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import onnx
import pytest
from onnx import parser
from typer.testing import CliRunner

from edgewise.exporter.cli import app
from edgewise.exporter.traffic.kernels import Kernel, kernels_of
from edgewise.exporter.traffic.layers import (
    OUTSIDE,
    Comparison,
    Traffic,
    compare,
    compare_bundle,
    group_of,
    traffic_of,
)
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.system.errors import EdgewiseError, ExportError

PLANE = 16 * 8 * 8
"""Elements of the activations [1, 16, 8, 8] below."""

CONSTANTS = """
    float[16, 16, 1, 1] w = {}, float[16] b = {}, float s = {0.1}, int8 z = {0},
    int8[16, 16, 1, 1] q = {}, float[16] c = {}, int8[16] n = {}
"""
WEIGHTS = 4 * (16 * 16 + 16)
CODED_WEIGHTS = 16 * 16 + 4 * 16


def graph(body: str, outputs: str, inputs: str = "float[1, 16, 8, 8] x") -> onnx.ModelProto:
    """A model whose constants are `CONSTANTS`, zeros where they have no value."""
    constants = "".join(
        {"float": "0.0,", "int8": "0,"}[kind] * count + "|"
        for kind, count in (("float", 256), ("float", 16), ("int8", 256), ("float", 16), ("int8", 16))
    ).split("|")
    filled = CONSTANTS
    for values in constants[:-1]:
        filled = filled.replace("{}", "{" + values.rstrip(",") + "}", 1)
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> main ({inputs}) => ({outputs}) <{filled}> {{ {body} }}'
    )


def moved(model: onnx.ModelProto) -> list[tuple[int, int]]:
    """(reads, writes) of every kernel."""
    return [(kernel.reads, kernel.writes) for kernel in kernels_of(model)]


def test_a_product_takes_bias_activation_and_addition() -> None:
    model = graph(
        "y = Conv(x, w, b) a = Add(y, x) r = Relu(a) z1 = Conv(r, w) t = Sigmoid(z1)", "float[1, 16, 8, 8] t"
    )
    first, second = kernels_of(model)
    assert (first.reads, first.writes, first.weights) == (4 * PLANE, 4 * PLANE, WEIGHTS)
    assert (second.reads, second.writes) == (4 * PLANE, 4 * PLANE)


def test_of_two_products_one_takes_the_addition() -> None:
    model = graph("u = Conv(x, w) v = Conv(x, w) a = Add(u, v) r = Relu(a)", "float[1, 16, 8, 8] r")
    assert moved(model) == [(4 * PLANE, 4 * PLANE), (8 * PLANE, 4 * PLANE)]


CODED = """
    xc = QuantizeLinear(x, s, z) xr = DequantizeLinear(xc, s, z)
    k = DequantizeLinear<axis = 0>(q, c, n) y = Conv(xr, k, b) r = Relu(y)
    rc = QuantizeLinear(r, s, z) rr = DequantizeLinear(rc, s, z)
    k2 = DequantizeLinear<axis = 0>(q, c, n) t = Conv(rr, k2, b)
"""


def test_codes_are_read_and_written_by_the_kernels_themselves() -> None:
    rounding, first, second = kernels_of(graph(CODED, "float[1, 16, 8, 8] t"))
    assert (rounding.reads, rounding.writes) == (4 * PLANE, PLANE)
    assert (first.reads, first.writes) == (PLANE, PLANE)
    assert (second.reads, second.writes) == (PLANE, 4 * PLANE)
    assert first.weights >= CODED_WEIGHTS
    assert first.weights < CODED_WEIGHTS + 100  # the bias and the scales of activations


def test_a_tensor_that_is_read_as_floats_too_costs_a_kernel_more() -> None:
    model = graph(CODED + "p = Add(r, t)", "float[1, 16, 8, 8] p")
    assert moved(model)[1:] == [(PLANE, 4 * PLANE), (4 * PLANE, PLANE), (5 * PLANE, 4 * PLANE)]


def test_elementwise_chains_and_views_are_one_kernel() -> None:
    model = graph(
        """
        shape = Constant<value_ints = [1, 16, 64]>()
        e = Exp(x) f = Reshape(e, shape) g = Neg(f) h = Mul(g, g)
        """,
        "float[1, 16, 64] h",
    )
    assert moved(model) == [(4 * PLANE, 4 * PLANE)]


@pytest.mark.parametrize(("order", "kernels"), [("0, 2, 3, 1", 3), ("0, 1, 2, 3", 2)])
def test_a_transpose_behind_a_product_is_a_kernel_where_it_moves_anything(order: str, kernels: int) -> None:
    shape = "1, 8, 8, 16" if kernels == 3 else "1, 16, 8, 8"
    model = graph(f"y = Conv(x, w) p = Transpose<perm = [{order}]>(y) t = Softmax(p)", f"float[{shape}] t")
    assert len(kernels_of(model)) == kernels - (kernels == 3)  # it joins the reduction behind it
    alone = graph(f"y = Conv(x, w) p = Transpose<perm = [{order}]>(y)", f"float[{shape}] p")
    assert len(kernels_of(alone)) == kernels - 1


@pytest.mark.parametrize(("axis", "kernels"), [(1, 3), (2, 4)])
def test_channels_behind_each_other_are_written_in_place(axis: int, kernels: int) -> None:
    shape = "1, 32, 8, 8" if axis == 1 else "1, 16, 16, 8"
    model = graph(
        f"""
        u = Conv(x, w) v = Conv(x, w, b) j = Concat<axis = {axis}>(u, v)
        t = MaxPool<kernel_shape = [1, 1]>(j)
        """,
        f"float[{shape}] t",
    )
    assert len(kernels_of(model)) == kernels
    assert kernels_of(model)[-1].reads == 2 * 4 * PLANE


def test_a_slice_of_whole_planes_reads_what_it_shows() -> None:
    model = graph(
        """
        first = Constant<value_ints = [0]>() last = Constant<value_ints = [4]>()
        axis = Constant<value_ints = [1]>()
        part = Slice(x, first, last, axis) t = MaxPool<kernel_shape = [1, 1]>(part)
        """,
        "float[1, 4, 8, 8] t",
    )
    assert moved(model) == [(PLANE, PLANE)]


BEFORE_POOLING = """
    m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(y)
    mc = QuantizeLinear(m, s, z) mr = DequantizeLinear(mc, s, z)
    h = DequantizeLinear<axis = 0>(q, c, n) t = Conv(mr, h)
"""
POOLED = [(PLANE, PLANE // 4), (PLANE // 4, PLANE)]


def test_rounding_moves_in_front_of_what_only_moves_values() -> None:
    on_codes = (
        "xc = QuantizeLinear(x, s, z) xr = DequantizeLinear(xc, s, z) k = DequantizeLinear<axis = 0>(q, c, n)"
    )
    model = graph(f"{on_codes} y = Conv(xr, k) {BEFORE_POOLING}", "float[1, 16, 4, 4] t")
    assert moved(model)[1:] == [(PLANE, PLANE), *POOLED]


def test_codes_that_are_rounded_to_their_own_scale_again_stay_as_they_are() -> None:
    model = graph(
        f"xc = QuantizeLinear(x, s, z) y = DequantizeLinear(xc, s, z) {BEFORE_POOLING}",
        "float[1, 16, 4, 4] t",
    )
    assert moved(model) == [(4 * PLANE, PLANE), *POOLED]


def test_a_product_of_floats_neither_reads_nor_writes_codes() -> None:
    model = graph(f"y = Conv(x, w) {BEFORE_POOLING}", "float[1, 16, 4, 4] t")
    assert moved(model) == [(4 * PLANE, 4 * PLANE), (4 * PLANE, PLANE), *POOLED]
    skip = graph(
        """
        xc = QuantizeLinear(x, s, z) xr = DequantizeLinear(xc, s, z) y = Conv(x, w) t = Add(y, xr)
        u = Neg(xr)
        """,
        "float[1, 16, 8, 8] t, float[1, 16, 8, 8] u",
    )
    assert moved(skip)[:3] == [(4 * PLANE, PLANE), (4 * PLANE, 4 * PLANE), (5 * PLANE, 4 * PLANE)]


def test_resizing_ends_in_codes() -> None:
    model = graph(
        """
        xc = QuantizeLinear(x, s, z) xr = DequantizeLinear(xc, s, z)
        sizes = Constant<value = int64[4] {1, 16, 16, 16}>() y = Resize<mode = "linear">(xr, , , sizes)
        yc = QuantizeLinear(y, s, z) yr = DequantizeLinear(yc, s, z) t = Neg(yr)
        """,
        "float[1, 16, 16, 16] t",
    )
    assert moved(model) == [(4 * PLANE, PLANE), (PLANE, 4 * PLANE), (4 * PLANE, 16 * PLANE)]


def test_one_reduction_takes_what_stands_around_it() -> None:
    model = graph(
        "e = Exp(x) axes = Constant<value_ints = [1]>() m = ReduceSum<keepdims = 1>(e, axes) d = Div(e, m)",
        "float[1, 16, 8, 8] d",
    )
    assert moved(model) == [(4 * PLANE, 4 * PLANE)]


def test_unknown_operators_are_alone_and_constants_cost_nothing() -> None:
    model = graph(
        "e = Exp(x) f = CumSum(e, i) g = Neg(f) h = Add(b, b) k = Reshape(h, shape) t = Add(g, k)",
        "float[1, 16, 8, 8] t",
        "float[1, 16, 8, 8] x",
    )
    model.graph.initializer.extend(
        [onnx.helper.make_tensor("i", 6, [], [1]), onnx.helper.make_tensor("shape", 7, [4], [1, 16, 1, 1])]
    )
    assert moved(model) == [(4 * PLANE, 4 * PLANE)] * 3
    assert kernels_of(model)[-1].weights == 64


def test_an_unknown_shape_is_refused() -> None:
    model = graph("y = Mystery(x) t = Relu(y)", "float[1, 16, 8, 8] t")
    with pytest.raises(ExportError, match="y of Mystery"):
        kernels_of(model)


def test_of_a_free_batch_one_look_is_counted() -> None:
    free = graph(f"{CODED} f = Flatten(t)", "float[N, 1024] f", "float[N, 16, 8, 8] x")
    fixed = graph(f"{CODED} f = Flatten(t)", "float[1, 1024] f")
    assert moved(free) == moved(fixed)


def test_groups_are_modules() -> None:
    assert group_of("network/backbone/layers/0/1/conv2/Conv") == "network/backbone/layers/0"
    assert group_of("network/fpn/lateral/Conv") == "network/fpn"
    assert group_of("Softmax_3") == OUTSIDE
    model = graph(CODED, "float[1, 16, 8, 8] t")
    for node in model.graph.node:
        node.name = f"net/{'first' if node.output[0] in 'y r' else 'second'}/{node.op_type}_{node.output[0]}"
    groups = traffic_of(model)
    kernels: tuple[Kernel, ...] = kernels_of(model)
    assert sum(groups.values(), Traffic()).total == sum(k.activations + k.weights for k in kernels)
    assert groups["net/first"].activations == 2 * PLANE


def test_layers_that_int8_makes_heavier_are_named() -> None:
    found = Comparison(
        {
            Precision.FP16: {"a": Traffic(1, 100, 10), "b": Traffic(1, 100, 10)},
            Precision.INT8: {"a": Traffic(1, 50, 5), "b": Traffic(2, 140, 5), "c": Traffic(1, 10, 0)},
        }
    )
    assert found.heavier() == {"b": 35, "c": 10}
    assert found.ratio() == pytest.approx(210 / 220)
    assert found.ratio("a") == pytest.approx(0.5)
    assert found.ratio("c") is None
    model = graph(CODED, "float[1, 16, 8, 8] t")
    assert compare({Precision.FP32: model}).heavier() == {}
    assert compare({Precision.FP32: model}).in_words() == ""
    assert found.in_words() == "int8 moves 0.95 of fp16's bytes; more in b (+0.00 MB), c (+0.00 MB)"
    worse = Comparison({**found.layers, Precision.INT8: {"a": Traffic(1, 300, 0), "b": Traffic(1, 111, 0)}})
    assert worse.in_words() == (
        "int8 moves 1.87 of fp16's bytes, so it is the slower one; more in a (+0.00 MB)"
    )


def test_inspect_shows_the_traffic_of_a_bundle(spots_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = CliRunner().invoke(app, ["inspect", str(spots_bundle.path), "--traffic"])
    assert shown.exit_code == 0
    assert "fp32 moves least" in shown.output
    printed = CliRunner().invoke(app, ["inspect", str(spots_bundle.path), "--traffic", "--json"])
    total = json.loads(printed.output)["main"]["total"]["fp32"]
    model = onnx.load_model_from_string(spots_bundle.graph_bytes("main", Target.TENSORRT, Precision.FP32))
    assert total["activations"] == sum(kernel.activations for kernel in kernels_of(model))
    assert "every file" not in shown.output
    assert "SHA-256" in CliRunner().invoke(app, ["inspect", str(spots_bundle.path)]).output


def test_json_is_of_the_traffic(spots_bundle: Bundle) -> None:
    result = CliRunner().invoke(app, ["inspect", str(spots_bundle.path), "--json"])
    assert isinstance(result.exception, EdgewiseError)
    assert "--json prints the traffic" in str(result.exception)


def test_a_bundle_without_files_for_tensorrt_has_no_traffic(spots_bundle: Bundle) -> None:
    graph = spots_bundle.graph("main")
    files = tuple(file for file in graph.files if file.target is Target.ONNXRUNTIME)
    graphs = {"main": msgspec.structs.replace(graph, files=files)}
    manifest = msgspec.structs.replace(spots_bundle.manifest, graphs=graphs)
    with pytest.raises(ExportError, match="no file for it"):
        compare_bundle(dataclasses.replace(spots_bundle, manifest=manifest))
