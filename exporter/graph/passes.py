"""What a pass is, and how one is run: conditions before and after, numbers before and after.

A pass is a pure function from a model to a model. It states what it requires and what it ensures as named
conditions; `PassRunner` verifies both, compares the numbers on real inputs, and records whether anything
changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from edgewise.calibration.graph import tensor_infos, weights_as_inputs
from edgewise.exporter.graph.numerics import (
    Difference,
    Roles,
    Tensors,
    every_float_alike,
    first_difference,
    run_graph,
)
from edgewise.exporter.graph.regions import Region, cut_out, flow, rewritten, run_part, unknown
from edgewise.runtime.contract.manifest import ProvenanceStep
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import onnx

Condition = Callable[["onnx.ModelProto"], "str | None"]
"""Says what contradicts it in a model, naming the node; None where it holds."""


@dataclass(frozen=True)
class Pass:
    """One rewriting of a model.

    Attributes:
        name: The provenance's name for it.
        apply: Pure: gets a copy that it may edit and return.
        requires: Conditions on the model it is given.
        ensures: Conditions on the model it returns.
        tolerance: Largest relative error that it may cause. 0 demands equal bits of every part that it wrote
            anew; more than 0 compares the tensors that the runner was told to compare, and those only;
            infinity leaves the judgement to whoever runs the pass.
        regions: The parts that it writes anew, found in the model that it is given. Where it names them, each
            is compared alone, on what flows into it and by its own tolerance.
        detail: What it did, for the provenance.
    """

    name: str
    apply: Callable[[onnx.ModelProto], onnx.ModelProto]
    requires: tuple[Condition, ...] = ()
    ensures: tuple[Condition, ...] = ()
    tolerance: float = 0.0
    regions: Callable[[onnx.ModelProto], Sequence[Region]] | None = None
    detail: str = ""


@dataclass(frozen=True)
class PassResult:
    """The model after a pass, whether it differs from the one before, and the provenance's line."""

    model: onnx.ModelProto
    changed: bool
    step: ProvenanceStep


@dataclass
class _Numbers:
    """What is known of the models from one on: tensors of every sample, and parts that were found equal."""

    values: list[dict[str, np.ndarray]] = field(default_factory=list)
    equal: set[tuple[bytes, bytes, float]] = field(default_factory=set)


@dataclass
class PassRunner:
    """Runs passes one after another, from one model on, and runs again no part whose numbers it knows.

    A model that a runner made is one that it goes on from: `beginning_with` gives it with all that it knows.

    Attributes:
        samples: Inputs on which models are compared.
        compared: Tensor names that a lossy pass is judged by (`onnx_export.comparable_names`). Where a model
            has them as inner tensors only, they are exposed for the comparison.
        roles: What the outputs among them are.
        steps: What was run, for the provenance.
    """

    samples: Sequence[Tensors]
    compared: Sequence[str]
    roles: Roles = every_float_alike
    steps: list[ProvenanceStep] = field(default_factory=list)
    _known: _Numbers = field(default_factory=_Numbers, repr=False)
    # No runner stands in it, which would hold itself, and all models with it, until Python looks for cycles.
    _known_from: dict[int, tuple[onnx.ModelProto, _Numbers]] = field(default_factory=dict, repr=False)

    def beginning_with(self, model: onnx.ModelProto) -> PassRunner:
        """The runner for passes from another model on: with the same steps, but knowing its numbers only."""
        return replace(self, _known=self._known_from.setdefault(id(model), (model, _Numbers()))[1])

    def run(self, pass_: Pass, model: onnx.ModelProto) -> PassResult:
        """Apply one pass to a copy of `model`.

        Raises:
            ExportError: A condition does not hold before or after, the result is no valid model, or its
                numbers differ by more than the pass allows.
        """
        import onnx

        _require(pass_, pass_.requires, model, "requires")
        draft: onnx.ModelProto | None = _copy(model)
        after_model = pass_.apply(draft)
        changed = after_model != model
        if changed:
            # What a message drops stays in its memory: a copy has only what is left.
            draft, after_model = None, _copy(after_model)
        _require(pass_, pass_.ensures, after_model, "ensures")
        if changed:
            try:
                onnx.checker.check_model(weights_as_inputs(after_model), full_check=True)
            except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
                raise ExportError(
                    f"the pass {pass_.name!r} made an invalid graph", where=str(error).strip().splitlines()[0]
                ) from error
            self._compare(pass_, model, after_model)
        step = ProvenanceStep(
            step=pass_.name, tool="edgewise", detail=pass_.detail if changed else "nothing to change"
        )
        self.steps.append(step)
        self._known_from[id(after_model)] = (after_model, self._known)
        return PassResult(after_model, changed, step)

    def _compare(self, pass_: Pass, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        if pass_.regions is not None:
            regions = pass_.regions(before)
        else:
            regions = rewritten(before, after) if pass_.tolerance == 0 else None
        if regions is not None:
            self._compare_regions(pass_, regions, before, after)
        elif pass_.tolerance < inf:
            self._compare_whole(pass_, before, after)

    def _compare_whole(self, pass_: Pass, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        new, old = (run_graph(expose(model, self.compared), self.samples) for model in (after, before))
        for number, (values, reference) in enumerate(zip(new, old, strict=True)):
            names = self.compared if pass_.tolerance > 0 else [name for name in reference if name in values]
            roles = self.roles if pass_.tolerance > 0 else every_float_alike
            _refuse(pass_, number, first_difference(values, reference, names, pass_.tolerance, roles))

    def _compare_regions(
        self, pass_: Pass, regions: Sequence[Region], before: onnx.ModelProto, after: onnx.ModelProto
    ) -> None:
        known = self._values()
        wanted = unknown(before, known[0], (name for region in regions for name in region.inputs))
        if wanted:
            for values, found in zip(known, flow(before, known, wanted), strict=True):
                values.update(found)
        for region, new, old in zip(regions, cut_out(after, regions), cut_out(before, regions), strict=True):
            key = (_digest(old), _digest(new), region.tolerance)
            if key in self._known.equal:
                continue
            pairs = zip(run_part(new, known), run_part(old, known), strict=True)
            for number, (values, reference) in enumerate(pairs):
                found = first_difference(values, reference, region.outputs, region.tolerance)
                _refuse(pass_, number, found)
            self._known.equal.add(key)

    def _values(self) -> list[dict[str, np.ndarray]]:
        """What is known of every sample: the inputs, and what flowed into the regions so far."""
        known = self._known.values
        if not known:
            known += [dict(sample) for sample in self.samples]
        return known


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _digest(model: onnx.ModelProto) -> bytes:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).digest()


def expose(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A model that also gives the inner tensors `names` as outputs (the same object where it does already).

    Raises:
        ExportError: No node makes such a tensor.
    """
    present = {output.name for output in model.graph.output}
    missing = [name for name in names if name not in present]
    if not missing:
        return model
    made = {output for node in model.graph.node for output in node.output}
    for name in missing:
        if name not in made:
            raise ExportError(f"the graph makes no tensor {name!r}", hint="a pass renamed or removed a probe")
    exposed = _copy(model)
    infos = tensor_infos(model)
    exposed.graph.output.extend(infos[name] for name in missing)
    return exposed


def _refuse(pass_: Pass, number: int, difference: Difference | None) -> None:
    if difference is not None:
        raise ExportError(
            f"the pass {pass_.name!r} changed the numbers on sample {number}: {difference.detail}",
            where=difference.tensor,
            hint="the pass breaks its own promise on this graph; report it with the canonical.onnx",
        )


def _require(pass_: Pass, conditions: Sequence[Condition], model: onnx.ModelProto, verb: str) -> None:
    for condition in conditions:
        problem = condition(model)
        if problem is not None:
            name = getattr(condition, "__name__", "condition").replace("_", " ")
            raise ExportError(f"the pass {pass_.name!r} {verb} that {name}", where=problem)
