from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgewise.calibration.placement import (
    EVERYTHING,
    Edge,
    Placement,
    PlacementRules,
    candidate_tensors,
    place,
)
from edgewise.runtime.contract.manifest import Precision, Target
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
