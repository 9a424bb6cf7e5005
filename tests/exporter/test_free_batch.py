"""A graph of one look as a graph of several: the rows that stay apart, and the operators that mix them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgewise.exporter.graph.batch_axis import first_axis, fix_batch, has_free_batch
from edgewise.exporter.graph.numerics import GraphRunner, every_float_alike
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.passes.free_batch import free_batch
from edgewise.exporter.passes.lower_deform_conv import lower_deform_conv
from edgewise.exporter.targets import lowering
from edgewise.exporter.targets.lowering import stored
from edgewise.exporter.targets.profiles import releases_of
from edgewise.exporter.way.export import canonical_graph
from edgewise.models import registry
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.yolact.config import MICRO, PLUS_MICRO, Suppression, YolactConfig
from edgewise.models.layers.deform_conv import ModulatedDeformConv
from edgewise.runtime.contract.manifest import ClassLabel, Graph, Precision, Provenance, Target
from edgewise.runtime.system.errors import ExportError

from .float_graph import float_graph

X = (1, 4, 6, 5)
GENERATOR = np.random.default_rng(3)
LOOKS = [GENERATOR.normal(size=X).astype(np.float32) for _ in range(5)]
SAMPLES = [{"x": look} for look in LOOKS[:2]]


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"the_{kind} {outputs}", **attributes)


Case = tuple[Sequence[onnx.NodeProto], Mapping[str, Any], Sequence[int]]
"""Nodes from `x` to `y`, constants, and the shape of `y`."""

FLAT_GATHER = [
    node("TopK", "rows k", "best index", axis=1),
    node("Reshape", "x one_by_one", "flat"),
    node("Reshape", "index places", "flat_index"),
    node("Gather", "flat flat_index", "taken", axis=0),
    node("Reshape", "taken back", "y"),
]
"""Rows of 5 by the three greatest of 24 values, as `models.layers.rows` exports."""

APART: dict[str, Case] = {
    "convolution": (
        [
            node("Conv", "x weight bias", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Mul", "p scale", "y"),
        ],
        {
            "weight": GENERATOR.normal(size=(3, 4, 3, 3)).astype(np.float32),
            "bias": np.ones(3, np.float32),
            "scale": np.full((3, 1, 1), 0.5, np.float32),
        },
        (1, 3, 3, 2),
    ),
    "doubling by sizes": (
        [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="up", mode="linear")],
        {"sizes": np.array([1, 4, 12, 10])},
        (1, 4, 12, 10),
    ),
    "growing by an odd factor": (
        [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="up", mode="linear")],
        {"sizes": np.array([1, 4, 13, 7])},
        (1, 4, 13, 7),
    ),
    "a head's reshapes": (
        [
            node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
            node("Reshape", "t shape", "r"),
            node("Softmax", "r", "s", axis=-1),
            node("Slice", "s one five axis", "y"),
        ],
        {
            "shape": np.array([1, -1, 4]),
            "one": np.array([1]),
            "five": np.array([4]),
            "axis": np.array([2]),
        },
        (1, 30, 3),
    ),
    "a flat gather": (
        [node("Reshape", "x wide", "rows"), *FLAT_GATHER],
        {
            "wide": np.array([1, 120]),
            "k": np.array([3]),
            "one_by_one": np.array([120, 1]),
            "places": np.array([3]),
            "back": np.array([1, 3]),
        },
        (1, 3),
    ),
    "the only look taken and given back": (
        [
            node("Gather", "x zero", "planes", axis=0),
            node("Relu", "planes", "positive"),
            node("Unsqueeze", "positive first", "y"),
        ],
        {"zero": np.array(0), "first": np.array([0])},
        X,
    ),
    "squeezed and compared": (
        [
            node("Squeeze", "x first", "planes"),
            node("ReduceMax", "planes", "most", axes=[1, 2]),
            node("Sub", "planes most", "less"),
            node("Unsqueeze", "less first", "y"),
        ],
        {"first": np.array([0])},
        X,
    ),
    "matrix products": (
        [
            node("Reshape", "x shape", "a"),
            node("MatMul", "a weight", "b"),
            node("Transpose", "b", "c", perm=[0, 2, 1]),
            node("MatMul", "b c", "y"),
        ],
        {"shape": np.array([1, 6, 20]), "weight": GENERATOR.normal(size=(20, 3)).astype(np.float32)},
        (1, 6, 6),
    ),
    "codes": (
        [node("QuantizeLinear", "x scale zero", "q"), node("DequantizeLinear", "q scale zero", "y")],
        {"scale": np.float32(0.02), "zero": np.int8(0)},
        X,
    ),
}


def model_of(case: Case) -> onnx.ModelProto:
    return float_graph(case[0], case[1], X, case[2])


@pytest.mark.parametrize("name", APART)
def test_every_look_among_others_is_what_it_is_alone(name: str) -> None:
    fixed = model_of(APART[name])
    before = fixed.SerializeToString()
    free = free_batch(fixed, SAMPLES)
    assert fixed.SerializeToString() == before
    assert has_free_batch(free)
    alone, together = GraphRunner(fixed, optimised=False), GraphRunner(free, optimised=False)
    wanted = [alone.run({"x": look})["y"] for look in LOOKS]
    for count in range(1, len(LOOKS) + 1):
        found = together.run({"x": np.concatenate(LOOKS[:count])})["y"]
        if name == "growing by an odd factor":  # 7/5 is no float32: the scale that reaches 7 is a bit more
            np.testing.assert_allclose(found, np.concatenate(wanted[:count]), rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(found, np.concatenate(wanted[:count]))


MIXED: dict[str, tuple[Case, str]] = {
    "a mean over the looks": (([node("ReduceMean", "x", "y", axes=[0])], {}, X), "it reduces over them"),
    "a sum over everything": (([node("ReduceSum", "x", "y", keepdims=1)], {}, (1, 1, 1, 1)), "it reduces"),
    "a softmax over the looks": (([node("Softmax", "x", "y", axis=0)], {}, X), "it works along their axis"),
    "a moved axis": (
        ([node("Transpose", "x", "y", perm=[1, 0, 2, 3])], {}, (4, 1, 6, 5)),
        "it moves their axis",
    ),
    "a batch of one's own": (
        ([node("Expand", "x shape", "y")], {"shape": np.array([2, 4, 6, 5])}, (2, 4, 6, 5)),
        "it repeats them",
    ),
    "a constant row beside": (
        (
            [node("Concat", "x row", "y", axis=1)],
            {"row": np.zeros((1, 1, 6, 5), np.float32)},
            (1, 5, 6, 5),
        ),
        "row is the same for all of them",
    ),
    "a product over the looks": (
        (
            [node("Reshape", "x wide", "a"), node("MatMul", "weight a", "y")],
            {"wide": np.array([1, 120]), "weight": np.ones((1, 1), np.float32)},
            (1, 120),
        ),
        "it sums over them",
    ),
    "an added axis in front": (
        (
            [node("Unsqueeze", "x first", "b"), node("ReduceSum", "b first", "y", keepdims=0)],
            {"first": np.array([0])},
            X,
        ),
        "it moves their axis",
    ),
    "a cut": (
        (
            [node("Slice", "x zero one", "y")],
            {"zero": np.array([0]), "one": np.array([1])},
            X,
        ),
        "it cuts their axis",
    ),
    "a data-dependent operator": (
        ([node("NonZero", "x", "places"), node("Cast", "places", "y", to=TensorProto.FLOAT)], {}, (4, 120)),
        "nothing says how it keeps them apart",
    ),
    "an output of no look": (
        ([node("Relu", "one", "y")], {"one": np.ones((1, 2), np.float32)}, (1, 2)),
        "an output does not begin with an axis of looks",
    ),
    "a folded output": (
        ([node("Reshape", "x shape", "y")], {"shape": np.array([4, 30])}, (4, 30)),
        "an output does not begin with an axis of looks",
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_an_operator_that_mixes_the_looks_is_named(name: str) -> None:
    case, message = MIXED[name]
    with pytest.raises(ExportError, match="cannot take several looks in one launch") as caught:
        free_batch(model_of(case), SAMPLES)
    assert message in caught.value.what
    assert caught.value.where.split(" the_")[0] in {node.op_type for node in case[0]} | {"y"}
    assert "--batch" in caught.value.hint


def test_one_look_is_stored_as_it_is() -> None:
    model = model_of(APART["convolution"])
    key = (Target.TENSORRT, Precision.FP32)
    files = {key: {"10": model, "": model}}
    data = model.SerializeToString(deterministic=True)
    assert stored(files, Graph(inputs=(), outputs=(), batch=1), SAMPLES, every_float_alike) == {
        key: {"10": data, "": data}
    }
    freed = stored(files, Graph(inputs=(), outputs=(), batch=8), SAMPLES, every_float_alike)[key]
    assert freed["10"] == freed[""] != data


def test_a_line_that_reads_one_look_must_read_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flat gather becomes GatherND; a line that has none is found at export, not on the device."""
    model = model_of(APART["a flat gather"])
    files = {(Target.TENSORRT, Precision.FP32): {"": model}}
    assert stored(files, Graph(inputs=(), outputs=(), batch=8), SAMPLES, every_float_alike)
    (oldest, *_) = releases_of(Target.TENSORRT)
    lacking = replace(oldest, refused={**oldest.refused, "GatherND": "its parser does not know it"})
    monkeypatch.setattr(lowering, "releases_of", lambda target: (lacking,))
    with pytest.raises(ExportError, match=r"TensorRT 8.6 refuses GatherND"):
        stored(files, Graph(inputs=(), outputs=(), batch=8), SAMPLES, every_float_alike)
    assert stored(files, Graph(inputs=(), outputs=(), batch=1), SAMPLES, every_float_alike)


def test_a_free_batch_can_be_fixed_again() -> None:
    fixed = model_of(APART["a head's reshapes"])
    free = free_batch(fixed, SAMPLES)
    assert fix_batch(fixed, 4) is fixed
    four = fix_batch(free, 4)
    assert has_free_batch(free)
    assert not has_free_batch(four)
    onnx.checker.check_model(four, full_check=True)
    found = GraphRunner(four, optimised=False).run({"x": np.concatenate(LOOKS[:4])})["y"]
    np.testing.assert_array_equal(
        found, GraphRunner(free, optimised=False).run({"x": np.concatenate(LOOKS[:4])})["y"]
    )
    first_axis(four, "looks")
    assert has_free_batch(four)


FAMILIES = (
    ("yolact-tiny", MICRO, Suppression.GREEDY),
    ("yolact-plus-tiny", PLUS_MICRO, Suppression.FAST),
)


@pytest.mark.slow(seconds=60, reason="torch.onnx takes 15 seconds for the decoding of a detector")
@pytest.mark.parametrize(("name", "micro", "suppression"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_yolact_takes_frames_together(name: str, micro: YolactConfig, suppression: Suppression) -> None:
    """It gathers rows of every frame by indices of that frame; sequential suppression also flags each.

    YOLACT++ folds the masks of all frames into one row of images, and samples every frame by its own offsets,
    in the operator and in the form of the targets that refuse it.
    """
    decoding = msgspec.structs.replace(micro.decoding, suppression=suppression, slots=20)
    entry = replace(registry.find(name), config=msgspec.structs.replace(micro, decoding=decoding))
    vocabulary = Vocabulary(
        tuple(ClassLabel(id=number + 1, name=str(number)) for number in range(micro.class_count))
    )
    torch.manual_seed(2)
    network = entry.build()
    torch.nn.init.normal_(network.prediction_layers[0].conf_layer.weight, std=0.3)
    for part in network.modules():
        if isinstance(part, ModulatedDeformConv):
            torch.nn.init.normal_(part.conv_offset_mask.weight, std=0.3)
    module = entry.deploy(network.eval())
    graph = entry.manifest(vocabulary, Provenance(definition="micro")).graphs["main"]
    shape = graph.inputs[0].shape
    frames = GENERATOR.integers(0, 256, (3, *shape[1:]), dtype=np.uint8)
    samples = [{"image": frame[None]} for frame in frames]
    fixed = canonical_graph(module, graph, samples[:1]).fp32
    names = [spec.name for spec in (*graph.outputs, *graph.probes)]
    lowered = PassRunner(samples[:1], names).run(lower_deform_conv(), fixed)
    assert lowered.changed == (micro is PLUS_MICRO)
    for form in (fixed, lowered.model) if lowered.changed else (fixed,):
        together = GraphRunner(free_batch(form, samples[:2]), optimised=False).run({"image": frames})
        single = GraphRunner(form, optimised=False)
        assert (together["scores"] > 0).sum() > 3
        for number, sample in enumerate(samples):
            for output, wanted in single.run(sample).items():
                np.testing.assert_array_equal(together[output][number : number + 1], wanted, err_msg=output)
