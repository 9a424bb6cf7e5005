"""RoiAlign's GridSample form, alone and over a feature atlas, against ONNX Runtime's own RoiAlign."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgewise.exporter.graph.numerics import run_graph
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.passes.lower_roi_align import lower_roi_align
from edgewise.exporter.targets.lowering import lower_for
from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.contract.manifest import Target
from edgewise.runtime.system.errors import ExportError

CHANNELS = 3


def boxes_around(generator: np.random.Generator, count: int, height: float, width: float) -> np.ndarray:
    """float32 [count, 4]: inside, across the border, outside, turned round and empty."""
    centre = generator.uniform((-0.3, -0.3), (1.3, 1.3), (count, 2)) * (width, height)
    half = generator.uniform(-0.1, 0.6, (count, 2)) * (width, height)
    half[::7] = 0.0
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def align(features: str, output: str, *, bins: int, scale: float, sampling: int, mode: str) -> onnx.NodeProto:
    return helper.make_node(
        "RoiAlign",
        [features, "rois", "images"],
        [output],
        name=f"pool/{features}/RoiAlign",
        mode="avg",
        output_height=bins,
        output_width=bins,
        sampling_ratio=sampling,
        spatial_scale=scale,
        coordinate_transformation_mode=mode,
    )


def pyramid_model(
    sizes: list[tuple[int, int]],
    *,
    bins: int = 7,
    sampling: int = 2,
    mode: str = "output_half_pixel",
    count: int = 20,
    seed: int = 0,
) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """Levels of `sizes`, RoiAlign on each, and the chain of Where as deploy modules write it."""
    generator = np.random.default_rng(seed)
    finest = sizes[0]
    sample = {
        f"p{number}": generator.normal(size=(1, CHANNELS, *size)).astype(np.float32)
        for number, size in enumerate(sizes)
    }
    sample["rois"] = boxes_around(generator, count, 4.0 * finest[0], 4.0 * finest[1])
    sample["level"] = generator.integers(0, len(sizes), (count, 1, 1, 1))
    tensors = {"images": np.zeros(count, np.int64)}
    nodes, result = [], "a0"
    for number in range(len(sizes)):
        options = {"bins": bins, "scale": 0.25 / 2**number, "sampling": sampling, "mode": mode}
        nodes.append(align(f"p{number}", f"a{number}", **options))
        if number:
            tensors[f"number{number}"] = np.array(number)
            nodes.append(helper.make_node("Equal", ["level", f"number{number}"], [f"is{number}"]))
            nodes.append(helper.make_node("Where", [f"is{number}", f"a{number}", result], [f"upto{number}"]))
            result = f"upto{number}"
    nodes.append(helper.make_node("Identity", [result], ["y"]))
    for number, node in enumerate(nodes):
        node.name = node.name or f"n{number}"
    kinds = {name: TensorProto.INT64 if name == "level" else TensorProto.FLOAT for name in sample}
    graph = helper.make_graph(
        nodes,
        "edgewise",
        [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in sample.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (count, CHANNELS, bins, bins))],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), [sample]


def lowered_and_native(
    model: onnx.ModelProto, samples: list[dict[str, np.ndarray]]
) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    lowered = PassRunner(samples, ["y"]).run(lower_roi_align(), model).model
    return lowered, run_graph(lowered, samples)[0]["y"], run_graph(model, samples)[0]["y"]


PYRAMID = [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("mode", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("sampling", [1, 2, 3])
@pytest.mark.parametrize(
    "sizes",
    [[(13, 9)], PYRAMID, [(4, 6), (8, 12)], [(3, 30), (4, 2), (9, 2)]],
    ids=["alone", "pyramid", "coarse-first", "odd"],
)
def test_the_atlas_gives_the_operators_numbers(
    sizes: list[tuple[int, int]], sampling: int, mode: str
) -> None:
    lowered, found, wanted = lowered_and_native(*pyramid_model(sizes, sampling=sampling, mode=mode))
    assert difference(found, wanted).relative < 5e-5
    kinds = Counter(node.op_type for node in lowered.graph.node)
    assert kinds["GridSample"] == 1
    assert kinds["Where"] == len(sizes) - 1


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    bins=st.integers(1, 5),
    sampling=st.integers(1, 3),
    half_pixel=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_any_level_size(
    height: int, width: int, bins: int, sampling: int, half_pixel: bool, seed: int
) -> None:
    mode = "half_pixel" if half_pixel else "output_half_pixel"
    model, samples = pyramid_model(
        [(height, width), (max(1, height // 2), max(1, width // 2))],
        bins=bins,
        sampling=sampling,
        mode=mode,
        count=8,
        seed=seed,
    )
    _, found, wanted = lowered_and_native(model, samples)
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_a_neighbouring_level_is_never_read() -> None:
    """Boxes at a level's border beside a level of huge numbers."""
    model, samples = pyramid_model(PYRAMID[:2])
    samples[0]["p1"] *= np.float32(1e6)
    samples[0]["level"][:] = 0
    samples[0]["rois"][:] = (80.0, 40.0, 96.0, 64.0)
    lowered, found, wanted = lowered_and_native(model, samples)
    assert lowered is not model
    # What float32's resolution of a position (here 4e-6 pixels) lets through of 1e6.
    assert np.abs(found - wanted).max() < 10.0


def test_heads_over_the_same_levels_share_one_atlas() -> None:
    model, samples = pyramid_model(PYRAMID)
    again = []
    for node in model.graph.node:
        if node.op_type in ("RoiAlign", "Where"):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name += "/again"
            copy.output[0] += "_again"
            for position, name in enumerate(copy.input):
                if name.startswith(("a", "upto")):
                    copy.input[position] = f"{name}_again"
            again.append(copy)
    model.graph.node.extend(again)
    extra = model.graph.output.add()
    extra.CopyFrom(model.graph.output[0])
    extra.name = "upto3_again"
    lowered = PassRunner(samples, ["y"]).run(lower_roi_align(), model).model
    kinds = Counter(node.op_type for node in lowered.graph.node)
    assert kinds["GridSample"] == 2
    assert kinds["Pad"] == 3, "P4 and P5 to the width of P3, and the column to the height of P2"


def test_a_level_that_somebody_else_reads_is_lowered_alone() -> None:
    model, samples = pyramid_model(PYRAMID[:2])
    extra = model.graph.output.add()
    extra.CopyFrom(model.graph.output[0])
    extra.name = "a0"
    lowered, found, wanted = lowered_and_native(model, samples)
    assert difference(found, wanted).relative < 5e-5
    assert Counter(node.op_type for node in lowered.graph.node)["GridSample"] == 2


def test_only_tensorrt_rtx_lowers_it() -> None:
    model, samples = pyramid_model(PYRAMID)
    for target in Target:
        runner = PassRunner(samples, ["y"])
        ((since, lowered),) = lower_for(lambda release: model, target, runner).items()
        assert since == ""
        kinds = Counter(node.op_type for node in lowered.graph.node)
        assert kinds["RoiAlign"] == (0 if target is Target.TENSORRT_RTX else 4)
        steps = ["lower-roi-align"] if target is Target.TENSORRT_RTX else []
        assert [step.step for step in runner.steps] == steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_ratio": 0}, "sampling_ratio 0 takes as many points as the box is large"),
        ({"mode": "max"}, "takes the maximum"),
        ({"output_width": 5}, "7x5"),
    ],
    ids=["adaptive", "max", "oblong"],
)
def test_what_has_no_grid_sample_form_is_refused(changes: dict[str, object], message: str) -> None:
    model, samples = pyramid_model([(16, 24)])
    node = model.graph.node[0]
    kept = [entry for entry in node.attribute if entry.name not in changes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in changes.items())])
    with pytest.raises(ExportError, match=message) as caught:
        PassRunner(samples, ["y"]).run(lower_roi_align(), model)
    assert caught.value.where == "pool/p0/RoiAlign"
    assert caught.value.hint


def test_boxes_of_another_image_are_refused() -> None:
    model, samples = pyramid_model([(16, 24)])
    images = next(tensor for tensor in model.graph.initializer if tensor.name == "images")
    images.CopyFrom(numpy_helper.from_array(np.ones(20, np.int64), "images"))
    with pytest.raises(ExportError, match="first of one image"):
        PassRunner(samples, ["y"]).run(lower_roi_align(), model)
