"""Which nodes must stay wider so that INT8 meets its budget, and no more than those.

Nodes are ranked by what their own rounding does to their own results, which one pass measures. The search
then keeps the first k of that ranking wider: k grows 1, 2, 4, ... until a real evaluation meets the budget,
and is halved down between the last miss and the first hit. That takes about 2 log2(k) evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from edgewise.calibration.sensitivity import Sensitivity
from edgewise.runtime.system.errors import CalibrationError

Assemble = Callable[[Mapping[str, str]], onnx.ModelProto]
"""Writes the INT8 graph with some nodes (name -> reason) left wider."""

Evaluate = Callable[[onnx.ModelProto], float]
"""The loss of a graph against FP32 in any unit; lower is better."""


@dataclass(frozen=True)
class Trial:
    """One evaluation: how many nodes were kept wider, and the loss that remained."""

    kept: int
    loss: float


@dataclass(frozen=True)
class SearchResult:
    """What `search_precision` found.

    Attributes:
        keep: Nodes to keep wider, each with its reason; empty where INT8 meets its budget as it is.
        loss: What `evaluate` gave for them, at most the budget.
        trials: All evaluations, in order.
    """

    keep: Mapping[str, str]
    loss: float
    trials: tuple[Trial, ...]


def search_precision(
    ranking: Sequence[Sensitivity],
    assemble: Assemble,
    evaluate: Evaluate,
    budget: float,
    *,
    progress: Callable[[Trial], None] | None = None,
) -> SearchResult:
    """Find the fewest most sensitive nodes whose keeping meets a budget.

    Args:
        ranking: From `rank_by_error`, the most sensitive first.
        assemble: Makes the graph; it must be able to leave out all but one of the ranked nodes.
        evaluate: Measures it. The same graph must give the same loss.
        budget: The largest loss allowed.
        progress: Called after every evaluation.

    Raises:
        CalibrationError: Keeping all ranked nodes but one misses the budget: INT8 is not for this model.
    """
    trials: list[Trial] = []

    def loss_with(count: int) -> float:
        loss = float(evaluate(assemble(reasons(ranking[:count], len(ranking), budget))))
        trials.append(Trial(count, loss))
        if progress is not None:
            progress(trials[-1])
        return loss

    most = len(ranking) - 1
    missed, met = -1, 0
    loss = loss_with(0)
    while not loss <= budget:
        missed = met
        if missed >= most:
            best = min(trial.loss for trial in trials)
            raise CalibrationError(
                f"INT8 misses its budget of {budget:.6g} even with {missed} of {len(ranking)} nodes kept "
                f"wider; the least loss was {best:.6g}",
                hint="calibrate on more or other images, use FP16, or state another budget",
            )
        met = min(max(1, 2 * missed), most)
        loss = loss_with(met)
    while met - missed > 1:
        middle = (missed + met) // 2
        trial = loss_with(middle)
        if trial <= budget:
            met, loss = middle, trial
        else:
            missed = middle
    return SearchResult(reasons(ranking[:met], len(ranking), budget), loss, tuple(trials))


def reasons(kept: Sequence[Sensitivity], ranked: int, budget: float) -> dict[str, str]:
    """Why each of the first nodes of a ranking stays wider."""
    return {
        found.node: (
            f"needed for the budget of {budget:.4g}: number {number} of {ranked} by the rounding error of "
            f"its result, {found.decibels:.1f} dB"
        )
        for number, found in enumerate(kept, start=1)
    }
