"""DeformConv's GridSample form against ONNX Runtime's own DeformConv."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.exporter.graph.conditions import opset_of
from edgewise.exporter.graph.numerics import run_graph
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.passes.lower_deform_conv import lower_deform_conv
from edgewise.exporter.targets.lowering import lower_for, newest
from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.contract.manifest import Target
from edgewise.runtime.system.errors import ExportError

GENERATOR = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def deform_model(
    x: np.ndarray,
    *,
    outputs: int = 5,
    kernel: tuple[int, int] = (3, 3),
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    group: int = 1,
    masked: bool = False,
    bias: bool = True,
    spread: float = 2.0,
    **attributes: object,
) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """A model of one DeformConv whose offsets (and mask) are inputs, and a sample for it."""
    taps = kernel[0] * kernel[1]
    size = [
        (x.shape[2 + axis] + 2 * padding - dilation * (kernel[axis] - 1) - 1) // stride + 1 for axis in (0, 1)
    ]
    sample = {"x": x, "offset": spread * normal(len(x), 2 * taps, *size)}
    if masked:
        sample["mask"] = GENERATOR.random((len(x), taps, *size), dtype=np.float32)
    tensors = {"weight": normal(outputs, x.shape[1] // group, *kernel)}
    if bias:
        tensors["bias"] = normal(outputs)
    names = ["x", "weight", "offset", "bias" if bias else "", "mask" if masked else ""]
    node = helper.make_node(
        "DeformConv",
        names,
        ["y"],
        name="head/DeformConv",
        kernel_shape=kernel,
        strides=[stride] * 2,
        pads=[padding] * 4,
        dilations=[dilation] * 2,
        group=group,
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "edgewise",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in sample.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (len(x), outputs, *size))],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), [sample]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 4, 11, 7), {}),
        ((1, 4, 11, 7), {"masked": True, "bias": False}),
        ((1, 4, 12, 9), {"stride": 2, "masked": True}),
        ((1, 4, 12, 9), {"padding": 2, "dilation": 2}),
        ((1, 6, 8, 8), {"group": 3, "outputs": 6}),
        ((1, 4, 9, 8), {"kernel": (1, 5), "padding": 2}),
        ((2, 3, 6, 6), {"masked": True}),
        ((1, 3, 1, 5), {}),
        ((1, 4, 40, 300), {"spread": 40.0}),
    ],
    ids=["v1", "v2", "stride", "dilation", "group", "flat-kernel", "batch", "one-row", "far-outside"],
)
def test_the_grid_sample_form_gives_the_operators_numbers(
    shape: tuple[int, ...], options: dict[str, object]
) -> None:
    model, samples = deform_model(normal(*shape), **options)
    result = PassRunner(samples, ["y"]).run(lower_deform_conv(), model)
    lowered = run_graph(result.model, samples)[0]["y"]
    assert difference(lowered, run_graph(model, samples)[0]["y"]).relative < 5e-5
    kinds = Counter(node.op_type for node in result.model.graph.node)
    assert kinds["GridSample"] == kinds["Conv"] == 1
    assert "Gather" not in kinds


def test_offsets_of_zero_are_a_plain_convolution() -> None:
    x = normal(1, 4, 9, 10)
    model, samples = deform_model(x, spread=0.0)
    lowered = PassRunner(samples, ["y"]).run(lower_deform_conv(), model).model
    node = helper.make_node("Conv", ["x", "weight", "bias"], ["y"], pads=[1] * 4)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    plain.graph.node[0].CopyFrom(node)
    del plain.graph.input[1:]
    wanted = run_graph(plain, [{"x": x}])[0]["y"]
    np.testing.assert_allclose(run_graph(lowered, samples)[0]["y"], wanted, atol=2e-5)


def test_the_base_grid_is_kept_as_rows_and_columns() -> None:
    """Constants grow with height plus width, and nodes of one size share them."""
    model, samples = deform_model(normal(1, 4, 64, 96), outputs=4)
    second = onnx.NodeProto()
    second.CopyFrom(model.graph.node[0])
    second.name, second.input[0], second.output[0] = "again/DeformConv", "y", "z"
    model.graph.node.append(second)
    model.graph.output[0].name = "z"
    lowered = PassRunner(samples, ["z"]).run(lower_deform_conv(), model).model
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in lowered.graph.initializer}
    assert sum(sizes.values()) < 9 * (64 + 96) + 9 * 16 + 64
    assert sum("flat" in name for name in sizes) == 1


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.TENSORRT_RTX])
def test_the_lowered_graph_comes_down_to_opset_17(target: Target) -> None:
    model, samples = deform_model(normal(1, 4, 8, 8))
    runner = PassRunner(samples, ["y"])
    ((since, lowered),) = lower_for(lambda release: model, target, runner).items()
    assert since == ""
    assert opset_of(lowered) == 17
    assert [step.step for step in runner.steps] == ["lower-deform-conv"]
    assert target.value in runner.steps[0].detail


def test_onnxruntime_keeps_the_operator_and_its_older_releases_get_a_form_of_their_own() -> None:
    model, samples = deform_model(normal(1, 4, 8, 8))
    runner = PassRunner(samples, ["y"])
    files = lower_for(lambda release: model, Target.ONNXRUNTIME, runner)
    assert list(files) == ["1.25", ""]
    assert newest(files) == model
    assert "DeformConv" not in {node.op_type for node in files[""].graph.node}
    assert opset_of(files[""]) == 17
    assert runner.steps == []
    # It is the file of TensorRT, which a bundle stores once.
    assert files[""] == newest(lower_for(lambda release: model, Target.TENSORRT, runner))
    assert list(lower_for(lambda release: files[""], Target.ONNXRUNTIME, runner)) == [""]


def test_a_line_that_cannot_read_a_graph_is_left_out_only_where_it_may_be() -> None:
    model, samples = deform_model(normal(1, 4, 8, 8))
    model.graph.node[0].attribute.append(helper.make_attribute("offset_group", 2))
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 36
    samples[0]["offset"] = np.tile(samples[0]["offset"], (1, 2, 1, 1))
    runner = PassRunner(samples, ["y"])
    assert lower_for(lambda release: model, Target.ONNXRUNTIME, runner) == {"1.25": model}
    with pytest.raises(ExportError, match="2 offset groups"):
        lower_for(lambda release: model, Target.TENSORRT, runner)


def test_a_second_offset_group_is_refused() -> None:
    model, samples = deform_model(normal(1, 4, 8, 8))
    model.graph.node[0].attribute.append(helper.make_attribute("offset_group", 2))
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 36
    samples[0]["offset"] = np.tile(samples[0]["offset"], (1, 2, 1, 1))
    with pytest.raises(ExportError, match="2 offset groups") as caught:
        PassRunner(samples, ["y"]).run(lower_deform_conv(), model)
    assert caught.value.where == "head/DeformConv"


def test_a_form_with_other_numbers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is judged on its own region: half a pixel too far is an error here, not behind a detector."""
    from edgewise.exporter.passes import lower_deform_conv as module

    base = module._base
    monkeypatch.setattr(module, "_base", lambda *args: tuple(part + np.float32(0.01) for part in base(*args)))
    model, samples = deform_model(normal(1, 4, 8, 8))
    with pytest.raises(ExportError, match="'lower-deform-conv' changed the numbers on sample 0") as caught:
        PassRunner(samples, ["y"]).run(lower_deform_conv(), model)
    assert caught.value.where == "y"
