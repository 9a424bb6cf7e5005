from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest

from edgewise.calibration.placement import (
    EVERYTHING,
    Edge,
    Placement,
    PlacementRules,
    candidate_tensors,
    carried_sums,
    place,
)
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.table import CalibrationTable, TensorRange
from edgewise.exporter.traffic.kernels import kernels_of
from edgewise.runtime.contract.manifest import CalibrationMethod, Precision, Target
from edgewise.runtime.system.errors import CalibrationError


def readers(placement: Placement, tensor: str) -> set[str]:
    return {edge.node.removeprefix("node_") for edge in placement.edges if edge.tensor == tensor}


def kept(placement: Placement) -> dict[str, str]:
    return {node.node.removeprefix("node_"): node.reason for node in placement.kept}


def test_weighted_nodes_read_codes_and_their_outputs_stay_float(residual: onnx.ModelProto) -> None:
    placement = place(residual)
    assert readers(placement, "a1_relu") == {"a2"}
    assert readers(placement, "pooled") == {"a1", "a_projection"}
    assert readers(placement, "mix_relu") == {"classes"}
    for tensor in ("a3", "b2", "stem_relu", "mask_logits", "classes", "boxes"):
        assert readers(placement, tensor) == set()


def test_the_skip_is_quantised_and_the_branch_is_not(residual: onnx.ModelProto) -> None:
    placement = place(residual)
    # The projection is the shorter way; the identity block reuses its input's codes.
    assert readers(placement, "a_projection") == {"a_sum"}
    assert readers(placement, "a_out") == {"b1", "b_sum"}
    assert Edge("top_up", "node_merged", 1) in placement.edges


def test_resizes_read_codes_where_their_result_becomes_codes(residual: onnx.ModelProto) -> None:
    assert readers(place(residual), "top") == {"top_up"}


def test_rules_give_reasons(residual: onnx.ModelProto) -> None:
    reasons = kept(place(residual))
    assert set(reasons) == {"stem", "boxes", "up"}
    assert "transposed" in reasons["up"]
    assert "reads the image" in reasons["stem"]
    assert "4 channels" in reasons["boxes"]
    last = kept(place(residual, rules=PlacementRules(keep_last=True)))
    assert set(last) == {"stem", "boxes", "up", "classes", "mask_logits"}
    assert "decoding" in last["classes"]
    assert place(residual, rules=EVERYTHING).kept == ()
    assert all(node.precision is Precision.FP32 for node in place(residual, wider=Precision.FP32).kept)


def test_kept_nodes_read_floats(residual: onnx.ModelProto) -> None:
    placement = place(residual, keep={"node_b1": "measured", "node_b2": "measured"})
    assert kept(placement)["b1"] == "measured"
    assert readers(placement, "b1_relu") == set()
    # Without a quantised convolution in front, the addition has nothing to fuse with.
    assert readers(placement, "a_out") == set()


def test_onnx_runtime_gets_codes_on_both_sides_and_for_every_reader(residual: onnx.ModelProto) -> None:
    placement = place(residual, target=Target.ONNXRUNTIME)
    assert readers(placement, "a3") == {"a_sum"}
    assert readers(placement, "b2") == {"b_sum"}
    assert readers(placement, "lateral") == {"merged"}
    assert readers(placement, "mix_relu") == {"up", "classes", "boxes"}
    assert set(kept(placement)) == {"stem", "boxes", "up"}


def test_all_placements_draw_on_the_candidates(residual: onnx.ModelProto) -> None:
    candidates = set(candidate_tensors(residual))
    for target in (Target.TENSORRT, Target.ONNXRUNTIME):
        for rules in (None, EVERYTHING):
            assert set(place(residual, rules=rules, target=target).tensors) <= candidates


def test_unknown_nodes_and_nothing_left(residual: onnx.ModelProto) -> None:
    with pytest.raises(CalibrationError, match="'node_nobody'"):
        place(residual, keep={"node_nobody": "?"})
    with pytest.raises(CalibrationError, match="is not a node with weights"):
        place(residual, keep={"node_a_sum": "?"})
    with pytest.raises(CalibrationError, match="no node is left"):
        place(residual, rules=PlacementRules(least_channels=1000))


def test_transposed_convolutions_with_groups_stay_wider(net: type) -> None:
    builder = net(0)
    builder.add("Cast", ["image"], "pixels", to=onnx.TensorProto.FLOAT)
    builder.add("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])
    builder.conv("planes", "stem", (3, 32), 3)
    builder.conv("stem", "next", (32, 32))
    builder.constant("up.weight", np.ones((32, 16, 1, 1), np.float32))
    builder.add("ConvTranspose", ["next", "up.weight"], "up", group=2)
    model = builder.model({"up": (1, 32, 48, 48)})
    rules = PlacementRules(keep_transposed=False)
    placement = place(model, rules=rules)
    assert placement.weighted == ("node_next",)
    assert "groups" in kept(placement)["up"]
    assert "no integer kernel" in kept(place(model))["up"]


def test_what_moves_samples_stays_wider(net: type) -> None:
    """Offsets and masks of a DeformConv, through a Sigmoid; and the DeformConv itself, which has no codes."""
    builder = net(0)
    builder.add("Cast", ["image"], "pixels", to=onnx.TensorProto.FLOAT)
    builder.add("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])
    builder.conv("planes", "stem", (3, 32), 3)
    builder.conv("stem", "offsets", (32, 18))
    builder.conv("stem", "strengths", (32, 9))
    builder.add("Sigmoid", ["strengths"], "mask")
    builder.constant("moved.weight", np.ones((32, 32, 3, 3), np.float32))
    inputs = ["stem", "moved.weight", "offsets", "", "mask"]
    builder.add("DeformConv", inputs, "moved", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    builder.conv("moved", "last", (32, 32))
    placement = place(builder.model({"last": (1, 32, 48, 48)}, opset=19))
    assert placement.weighted == ("node_last",)
    assert placement.tensors == ("moved",)
    reasons = kept(placement)
    assert "moves sampling points" in reasons["offsets"]
    assert "moves sampling points" in reasons["strengths"]
    assert "no integer kernel" in reasons["moved"]


def test_nodes_without_names_get_them(residual: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(residual)
    for node in model.graph.node:
        node.name = ""
    assert "Conv_a1" in place(model).weighted


# ---------------------------------------------------------------- residual trunks


def pre_activation(net: type, outputs: Sequence[str] = ("points",)) -> onnx.ModelProto:
    """Units of BatchNorm, ReLU, convolution on a trunk that is pooled, enlarged and added to again."""
    builder = net(0)
    builder.add("Cast", ["image"], "pixels", to=onnx.TensorProto.FLOAT)
    builder.add("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])
    builder.conv("planes", "stem", (3, 32), 3)
    builder.relu(builder.conv("stem", "first", (32, 32)), "x")
    unit(builder, "x", "a")
    builder.add("MaxPool", ["a"], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    unit(builder, "pooled", "low")
    builder.constant("scales", np.array([1, 1, 2, 2], np.float32))
    builder.add("Resize", ["low", "", "scales"], "enlarged", mode="nearest")
    unit(builder, "a", "high")
    builder.add("Add", ["high", "enlarged"], "merged")
    unit(builder, "merged", "last")
    builder.conv("last", "points", (32, 17))
    shapes = {"points": (1, 17, 48, 48), "a": (1, 32, 48, 48), "merged": (1, 32, 48, 48)}
    return builder.model({name: shapes[name] for name in outputs})


def unit(builder: object, tensor: str, name: str) -> None:
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.float32)
    parameters = [
        builder.constant(f"{name}_{part}", values)
        for part, values in (("gamma", ones), ("beta", zeros), ("mean", zeros), ("variance", ones))
    ]
    builder.add("BatchNormalization", [tensor, *parameters], f"{name}_normal")
    builder.relu(f"{name}_normal", f"{name}_active")
    builder.conv(f"{name}_active", f"{name}_branch", (32, 32), 3)
    builder.add("Add", [f"{name}_branch", tensor], name)


def test_the_trunk_of_pre_activation_units_is_codes(net: type) -> None:
    placement = place(pre_activation(net))
    assert readers(placement, "a") == {"high_normal", "high", "pooled"}
    assert readers(placement, "pooled") == {"low_normal", "low"}
    assert readers(placement, "low") == {"enlarged"}
    assert readers(placement, "high") == readers(placement, "enlarged") == {"merged"}
    assert readers(placement, "merged") == {"last_normal", "last"}
    for fused in ("a_branch", "low_branch", "a_normal"):
        assert readers(placement, fused) == set()
    # What MaxPool and the nearest neighbour make of codes are the same codes.
    assert placement.scales == {"pooled": "a", "enlarged": "low"}


def test_sums_on_the_trunk_are_told_apart(net: type, residual: onnx.ModelProto) -> None:
    model = pre_activation(net)
    assert carried_sums(model) == {"a", "pooled", "low", "high", "enlarged", "merged"}
    assert carried_sums(model) <= set(candidate_tensors(model))
    assert carried_sums(residual) == set()  # weights read every sum there, at once or behind a Relu


def test_a_trunk_that_somebody_reads_as_floats_stays_float(net: type) -> None:
    shown = place(pre_activation(net, ("points", "a")))
    assert readers(shown, "a") == set()
    assert readers(shown, "merged") == {"last_normal", "last"}
    kept = place(pre_activation(net), keep={"node_last_branch": "measured"})
    assert readers(kept, "merged") == set()


def test_a_product_with_float_weights_makes_no_codes_for_the_trunk(net: type) -> None:
    placement = place(pre_activation(net), keep={"node_first": "measured"})
    assert readers(placement, "x") == set()
    assert readers(placement, "a_active") == {"a_branch"}


def test_codes_beside_the_weights_lower_the_traffic(net: type, residual: onnx.ModelProto) -> None:
    """Each edge that no weighted node asks for is there because it spares bytes."""
    for model, keeps in (
        (residual, ("", "node_b2", "node_side", "node_top")),
        (pre_activation(net), ("", "node_first", "node_low_branch", "node_last_branch")),
    ):
        for keep in keeps:
            placement = place(model, keep={keep: "measured"} if keep else None)
            weighted = set(placement.weighted)
            bare = Placement(
                tuple(edge for edge in placement.edges if edge.node in weighted), placement.weighted, ()
            )
            assert moved(model, placement) < moved(model, bare), keep


def moved(model: onnx.ModelProto, placement: Placement) -> int:
    """Modelled bytes of activations; what the codes stand for plays no part."""
    ranges = dict.fromkeys(placement.tensors, 1.0)
    written = quantise_s8(model, table_of(ranges), placement)
    return sum(kernel.activations for kernel in kernels_of(written))


def table_of(largest: Mapping[str, float]) -> CalibrationTable:
    method = CalibrationMethod.MINMAX
    return CalibrationTable(
        method=method,
        sample_count=1,
        seed=0,
        samples_sha256="0" * 64,
        preprocess_sha256="0" * 64,
        tensors={
            tensor: TensorRange(minimum=0.0, maximum=amax, amax=amax, method=method)
            for tensor, amax in largest.items()
        },
    )


def test_shared_scales_are_written(net: type) -> None:
    model = pre_activation(net)
    placement = place(model)
    table = table_of({tensor: float(number) for number, tensor in enumerate(placement.tensors, 1)})
    written = quantise_s8(model, table, placement)
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    assert scales["pooled_scale"] == scales["a_scale"] != scales["low_scale"]
    assert scales["enlarged_scale"] == scales["low_scale"]
