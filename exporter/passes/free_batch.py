"""Free the first axis of a graph that was exported for one look, so that one launch takes several.

What belongs to a look is followed from the inputs to the outputs. A tensor either begins with the axis of
the looks, or that axis is folded into its first one, as flat gathers want it ([looks * rows, ...]). Every
operator keeps the looks apart or is refused by name: no batch is invented where the module mixes its rows.

The numbers decide in the end: several looks in one run must give what each gave alone in the fixed graph.
ONNX Runtime's optimisations are off for that, because it fuses a free graph otherwise than a fixed one and
rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgewise.calibration.graph import weights_as_inputs
from edgewise.exporter.graph.batch_axis import first_axis
from edgewise.exporter.graph.edit import (
    attribute,
    constants,
    drop_attribute,
    drop_unused_initialisers,
    drop_value_info,
    element_types,
    shapes,
    tensor_names,
)
from edgewise.exporter.graph.numerics import (
    GraphRunner,
    Roles,
    Tensors,
    every_float_alike,
    first_difference,
)
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-4
"""Largest relative error of a look among others against the same look alone (matrix products of another
height add up in another order)."""
LOOKS_COMPARED = 3
"""Looks of the launch that proves it: two different ones, and the first again."""


def free_batch(
    model: onnx.ModelProto,
    samples: Sequence[Tensors],
    roles: Roles = every_float_alike,
) -> onnx.ModelProto:
    """The model with a free first axis in every input and output.

    Args:
        model: A lowered graph of fixed shapes for one look; not changed.
        samples: Inputs of one look, on which several in one run are compared with each alone.
        roles: What the outputs are, for the comparison.

    Raises:
        ExportError: An operator that mixes the looks or whose form does not say that it keeps them apart, or
            numbers of a look that the others change.
    """
    import onnx

    draft = type(model)()
    draft.CopyFrom(model)
    rewriting = _Rewriting(draft)
    rewriting.run()
    drop_value_info(draft)
    drop_unused_initialisers(draft)
    first_axis(draft, "looks")
    try:
        onnx.checker.check_model(weights_as_inputs(draft), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _refusal(
            "the graph is invalid with a free batch", str(error).strip().splitlines()[0]
        ) from error
    _compare(model, draft, samples, roles)
    return draft


def _compare(fixed: onnx.ModelProto, free: onnx.ModelProto, samples: Sequence[Tensors], roles: Roles) -> None:
    single, several = GraphRunner(fixed, optimised=False), GraphRunner(free, optimised=False)
    looks = [samples[index % len(samples)] for index in range(LOOKS_COMPARED)]
    together = several.run({name: np.concatenate([look[name] for look in looks]) for name in looks[0]})
    alone: dict[int, dict[str, np.ndarray]] = {}
    for number, look in enumerate(looks):
        if id(look) not in alone:
            alone[id(look)] = single.run(look)
        mine = {name: value[number : number + 1] for name, value in together.items()}
        difference = first_difference(mine, alone[id(look)], single.outputs, TOLERANCE, roles)
        if difference is not None:
            raise _refusal(
                f"look {number + 1} of {len(looks)} in one run is not what it is alone: {difference.detail}",
                difference.tensor,
            )


def _refusal(problem: str, where: str) -> ExportError:
    return ExportError(
        f"the graph cannot take several looks in one launch: {problem}",
        where=where,
        hint="export without --batch, or write the deploy module so that each operator keeps the first axis",
    )


LEADING, FOLDED = "leading", "folded"
"""The looks are a tensor's first axis, or folded into it: [looks * rows, ...]."""

_ELEMENTWISE = frozenset((
    "Abs", "Add", "And", "BatchNormalization", "Cast", "Ceil", "Clip", "Cos", "DequantizeLinear", "Div",
    "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min",
    "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu",
    "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh",
    "ThresholdedRelu", "Where", "Xor",
))  # fmt: skip
_SPATIAL = frozenset((
    "AveragePool", "Conv", "ConvTranspose", "DeformConv", "DepthToSpace", "GlobalAveragePool",
    "GlobalMaxPool", "GridSample", "InstanceNormalization", "LpPool", "LRN", "MaxPool", "SpaceToDepth",
))  # fmt: skip
"""Each row of the first axis is an image of its own; so are the other inputs that hold looks."""
_REDUCTIONS = frozenset((
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
))  # fmt: skip
_ONE_AXIS = {
    "ArgMax": 0,
    "ArgMin": 0,
    "Concat": None,
    "GatherElements": 0,
    "Hardmax": -1,
    "LayerNormalization": -1,
    "LogSoftmax": -1,
    "Softmax": -1,
    "Split": 0,
    "TopK": -1,
}
"""Operators along one axis, with that attribute's default."""


@dataclass
class _Rewriting:
    """One walk over the nodes of a model that is edited in place."""

    model: onnx.ModelProto
    held: dict[str, str] = field(default_factory=dict)
    """Tensor -> how it holds the looks; tensors that are the same for every look are not here."""
    made: list[onnx.NodeProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.constants = constants(self.model)
        self.shapes = shapes(self.model)
        self.types = element_types(self.model)
        self.names = tensor_names(self.model)
        self.held |= {value.name: LEADING for value in self.model.graph.input}
        for tensor in self.model.graph.initializer:
            self.held.pop(tensor.name, None)

    def run(self) -> None:
        for node in self.model.graph.node:
            if not any(name in self.held for name in node.input):
                self.made.append(node)
                continue
            before = len(self.made)
            outcome = self._rule(node)(self, node)
            if outcome not in (LEADING, FOLDED):
                raise _refusal(outcome, f"{node.op_type} {node.name or ', '.join(node.output)}")
            if len(self.made) == before:
                self.made.append(node)
            self.held |= {name: outcome for name in node.output if name}
        copies = [type(node).FromString(node.SerializeToString()) for node in self.made]
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        for output in self.model.graph.output:
            if self.held.get(output.name) is None or self.shapes[output.name][:1] != (1,):
                raise _refusal("an output does not begin with an axis of looks", output.name)

    def _rule(self, node: onnx.NodeProto) -> Callable[[_Rewriting, onnx.NodeProto], str]:
        for operators, rule in (
            (_ELEMENTWISE, _elementwise),
            (_SPATIAL, _spatial),
            (_REDUCTIONS, _reduction),
            (_ONE_AXIS, _one_axis),
        ):
            if node.op_type in operators:
                return rule
        return _RULES.get(node.op_type, _unknown)

    def way(self, node: onnx.NodeProto) -> str:
        """How the inputs of a node hold the looks; a refusal where they differ."""
        ways = {self.held[name] for name in node.input if name in self.held}
        return ways.pop() if len(ways) == 1 else "its inputs hold the looks in two ways"

    def rank(self, name: str) -> int:
        return len(self.shapes[name])

    def constant(self, value: np.ndarray, wish: str) -> str:
        """The name of a new initialiser."""
        import onnx

        name, number = wish, 2
        while name in self.names:
            name, number = f"{wish}_{number}", number + 1
        self.names.add(name)
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def reshape(self, source: str, shape: Sequence[int], result: str, name: str) -> None:
        """Add a Reshape to [the looks, or what they are folded into; *shape]."""
        import onnx

        leads = self.held.get(source) == LEADING and self.shapes.get(result, (0,))[0] == 1
        wanted = np.array([0 if leads and 0 not in shape else -1, *shape], np.int64)
        self.made.append(
            onnx.helper.make_node("Reshape", [source, self.constant(wanted, f"{name}/shape")], [result], name)
        )


def _unknown(work: _Rewriting, node: onnx.NodeProto) -> str:
    return "nothing says how it keeps them apart"


def _elementwise(work: _Rewriting, node: onnx.NodeProto) -> str:
    result = work.shapes[node.output[0]]
    for name in node.input:
        if not name or name not in work.shapes:
            continue
        shape = work.shapes[name]
        if name in work.held:
            if len(shape) != len(result) or shape[0] != result[0]:
                return f"it broadcasts {name} along their axis"
        elif node.op_type in ("BatchNormalization", "QuantizeLinear", "DequantizeLinear"):
            if (
                node.op_type != "BatchNormalization"
                and np.prod(shape) > 1
                and attribute(node, "axis", 1) == 0
            ):
                return "its scales differ along their axis"
        elif len(shape) == len(result) and shape[0] != 1:
            return f"{name} differs along their axis"
    return work.way(node)


def _spatial(work: _Rewriting, node: onnx.NodeProto) -> str:
    way = work.way(node)
    if node.input[0] not in work.held or (node.op_type == "GridSample" and node.input[1] not in work.held):
        return "only one of its inputs holds them"
    if node.op_type != "GridSample" and node.op_type != "DeformConv":
        if any(name in work.held for name in node.input[1:]):
            return "its weights are computed from them"
    elif node.op_type == "DeformConv" and any(name in work.held for name in node.input[1:2]):
        return "its weights are computed from them"
    return way


def _reduction(work: _Rewriting, node: onnx.NodeProto) -> str:
    axes = attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1]:
        found = work.constants.get(node.input[1])
        axes = None if found is None else found.tolist()
    if not axes or any(axis % work.rank(node.input[0]) == 0 for axis in axes):
        return "it reduces over them"
    return work.way(node)


def _one_axis(work: _Rewriting, node: onnx.NodeProto) -> str:
    axis = attribute(node, "axis", _ONE_AXIS[node.op_type])
    if axis % work.rank(node.input[0]) == 0:
        return "it works along their axis"
    shared = [name for name in node.input if name and name not in work.held]
    if node.op_type in ("Concat", "GatherElements") and shared:
        return f"{shared[0]} is the same for all of them"
    return work.way(node)


def _matmul(work: _Rewriting, node: onnx.NodeProto) -> str:
    first, second = node.input[:2]
    if second in work.held and (work.held[second] == FOLDED or work.rank(second) < 3):
        return "it sums over them"
    ranks = [work.rank(name) for name in (first, second)]
    for name, rank in zip((first, second), ranks, strict=True):
        if name in work.held:
            if rank < max(ranks):
                return f"it broadcasts {name} along their axis"
        elif rank == max(ranks) and rank > 2 and work.shapes[name][0] != 1:
            return f"{name} differs along their axis"
    return work.way(node)


def _gemm(work: _Rewriting, node: onnx.NodeProto) -> str:
    if attribute(node, "transA", 0) or any(name in work.held for name in node.input[1:]):
        return "it sums over them"
    bias = work.shapes[node.input[2]] if len(node.input) > 2 and node.input[2] else ()
    return "its bias differs along their axis" if len(bias) == 2 and bias[0] != 1 else work.way(node)


def _transpose(work: _Rewriting, node: onnx.NodeProto) -> str:
    order = attribute(node, "perm", [-1])
    return work.way(node) if order[0] == 0 else "it moves their axis"


def _reshape(work: _Rewriting, node: onnx.NodeProto) -> str:
    """Rows lie one after the other, so any shape of one look is a shape of several."""
    result = work.shapes[node.output[0]]
    if not result or node.input[1] in work.held:
        return "it drops their axis" if not result else "its shape is computed from them"
    work.reshape(node.input[0], result[1:], node.output[0], node.name)
    return LEADING if result[0] == 1 else FOLDED


def _squeeze(work: _Rewriting, node: onnx.NodeProto) -> str:
    axes = work.constants.get(node.input[1]) if len(node.input) > 1 else None
    if axes is None:
        return "it does not say which axes it drops"
    if any(axis % work.rank(node.input[0]) == 0 for axis in axes.tolist()):
        return _reshape(work, node) if work.held[node.input[0]] == LEADING else "it drops their axis"
    return work.way(node)


def _unsqueeze(work: _Rewriting, node: onnx.NodeProto) -> str:
    axes = work.constants.get(node.input[1])
    if axes is None:
        return "it does not say which axes it adds"
    if any(axis % work.rank(node.output[0]) == 0 for axis in axes.tolist()):
        return _reshape(work, node) if work.held[node.input[0]] == FOLDED else "it moves their axis"
    return work.way(node)


def _flatten(work: _Rewriting, node: onnx.NodeProto) -> str:
    return work.way(node) if attribute(node, "axis", 1) == 1 else "it drops their axis"


def _expand(work: _Rewriting, node: onnx.NodeProto) -> str:
    shape = work.constants.get(node.input[1])
    rank = work.rank(node.input[0])
    if shape is None or len(shape) > rank or (len(shape) == rank and shape[0] != 1):
        return "it repeats them"
    return work.way(node)


def _tile(work: _Rewriting, node: onnx.NodeProto) -> str:
    repeats = work.constants.get(node.input[1])
    return work.way(node) if repeats is not None and repeats[0] == 1 else "it repeats them"


def _pad(work: _Rewriting, node: onnx.NodeProto) -> str:
    pads = work.constants.get(node.input[1])
    axes = work.constants.get(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if pads is None or (len(node.input) > 3 and node.input[3] and axes is None):
        return "its pads are computed"
    rank = work.rank(node.input[0])
    places = np.arange(rank) if axes is None else axes % rank
    padded = pads.reshape(2, -1).any(axis=0) & (places == 0)
    return "it pads their axis" if padded.any() else work.way(node)


def _slice(work: _Rewriting, node: onnx.NodeProto) -> str:
    starts = work.constants.get(node.input[1])
    axes = work.constants.get(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if starts is None or (axes is None and len(node.input) > 3 and node.input[3]):
        return "its bounds are computed"
    places = np.arange(len(starts)) if axes is None else axes % work.rank(node.input[0])
    return "it cuts their axis" if (places == 0).any() else work.way(node)


def _resize(work: _Rewriting, node: onnx.NodeProto) -> str:
    """Sizes name the batch, scales do not."""
    source, result = work.shapes[node.input[0]], work.shapes[node.output[0]]
    if source[0] != result[0]:
        return "it resizes their axis"
    axes = attribute(node, "axes", range(len(source)))
    if len(node.input) > 3 and node.input[3] and any(axis % len(source) == 0 for axis in axes):
        scales = np.array([_scale(*pair) for pair in zip(source, result, strict=True)], np.float32)
        region = node.input[1]
        del node.input[1:]
        node.input.extend([region, work.constant(scales, f"{node.name or node.output[0]}/scales")])
        drop_attribute(node, "keep_aspect_ratio_policy")
        drop_attribute(node, "axes")
    return work.way(node)


def _scale(source: int, result: int) -> np.float32:
    """The float32 by which a side becomes exactly `result` cells, rounded down in whatever precision."""
    scale = np.float32(result / source)
    return scale if float(scale) * source >= result else np.nextafter(scale, np.float32(np.inf))


def _gather(work: _Rewriting, node: onnx.NodeProto) -> str:
    import onnx

    values, index = node.input
    axis = attribute(node, "axis", 0) % max(work.rank(values), 1)
    if values not in work.held:
        return work.way(node) if axis == 0 else "their axis does not stay the first"
    if index not in work.held:
        if axis == 0 and work.held[values] == LEADING and not np.any(work.constants.get(index, 1)):
            return _reshape(work, node)  # The one look that there was: all of them.
        return work.way(node) if axis != 0 else "it takes some of them"
    if axis != 0 or work.held[values] != FOLDED or work.held[index] != FOLDED or work.rank(index) != 1:
        return "it takes rows of one look by indices of another"
    # Indices count within a look: GatherND with a batch axis says so.
    rows, rest, count = work.shapes[values][0], work.shapes[values][1:], work.shapes[index][0]
    base, result = node.name or node.output[0], node.output[0]
    by_look, wide, places, taken = (f"{base}/{part}" for part in ("values", "index_int64", "places", "taken"))
    work.reshape(values, (rows, *rest), by_look, f"{base}/by_look")
    if work.types.get(index) != onnx.TensorProto.INT64:
        work.made.append(
            onnx.helper.make_node("Cast", [index], [wide], f"{base}/wide", to=onnx.TensorProto.INT64)
        )
        index = wide
    work.reshape(index, (count, 1), places, f"{base}/place")
    work.made.append(
        onnx.helper.make_node("GatherND", [by_look, places], [taken], f"{base}/look", batch_dims=1)
    )
    work.reshape(taken, rest, result, node.name or result)
    return FOLDED


_RULES: Mapping[str, Callable[[_Rewriting, onnx.NodeProto], str]] = {
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
