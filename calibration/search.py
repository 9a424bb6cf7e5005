"""Which nodes must stay wider so that a precision meets its budget, and no more than those.

Nodes are ranked by what their own rounding does to their own results, which one pass measures. The search
then keeps the first k of that ranking wider: k grows 1, 2, 4, ... until a real evaluation meets the budget,
and is halved down between the last miss and the first hit. That takes about 2 log2(k) evaluations.

A loss need not fall with k: rounding errors of nodes can cancel, and a wider node no longer takes part. So
only a k that was evaluated is returned, and where 1, 2, 4, ... all miss, the middles between them are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic, TypeVar

from edgewise.calibration.sensitivity import Sensitivity
from edgewise.runtime.system.errors import CalibrationError

CodesT = TypeVar("CodesT")
"""What `assemble` makes and `evaluate` measures: a graph in the precision, or one in several forms."""


@dataclass(frozen=True)
class Trial:
    """One evaluation: how many nodes were kept wider, and the loss that remained."""

    kept: int
    loss: float


@dataclass(frozen=True)
class SearchResult(Generic[CodesT]):
    """What `search_precision` found.

    Attributes:
        keep: Nodes to keep wider, each with its reason; empty where the budget is met as it is.
        codes: What `assemble` made of them.
        loss: What `evaluate` gave for it, at most the budget.
        trials: All evaluations, in order; no count twice.
    """

    keep: Mapping[str, str]
    codes: CodesT
    loss: float
    trials: tuple[Trial, ...]


def search_precision(
    rank: Callable[[], Sequence[Sensitivity]],
    assemble: Callable[[Mapping[str, str]], CodesT],
    evaluate: Callable[[CodesT], float],
    budget: float,
    *,
    precision: str = "INT8",
    progress: Callable[[Trial], None] | None = None,
) -> SearchResult[CodesT]:
    """Find a small number of most sensitive nodes whose keeping meets a budget.

    The counts 0, 1, 2, 4, ... and all nodes but one are tried in this order and, where all of them miss, the
    middles between neighbours among them, the largest first. The first that meets is halved down towards the
    next smaller one that missed. Guaranteed for any loss: what is returned was evaluated and met the budget,
    one node less was evaluated and missed it, and no count is evaluated twice. Where the loss never grows
    with the count, these are the fewest nodes, and an error means that no count meets. Otherwise a smaller
    count may meet too, and an error says only that every tried count missed.

    Args:
        rank: The nodes as `rank_by_error` orders them, the most sensitive first. Called at most once, and not
            where the budget is met as it is.
        assemble: Writes the codes with some nodes (name -> reason) left wider; it must be able to leave out
            all but one of the ranked nodes.
        evaluate: The loss against FP32 in any unit; lower is better, NaN misses. Codes in several forms have
            the loss of their worst form. The same codes must give the same loss.
        budget: The largest loss allowed.
        precision: Its name, for reasons and errors.
        progress: Called after every evaluation.

    Raises:
        CalibrationError: Every tried count misses the budget: the precision is not for this model.
    """
    trials: list[Trial] = []

    def attempt(keep: Mapping[str, str]) -> SearchResult[CodesT] | None:
        codes = assemble(keep)
        loss = float(evaluate(codes))
        trials.append(Trial(len(keep), loss))
        if progress is not None:
            progress(trials[-1])
        return SearchResult(keep, codes, loss, tuple(trials)) if loss <= budget else None

    met = attempt({})
    if met is not None:
        return met
    ranking = rank()
    for count in _counts(len(ranking) - 1):
        met = attempt(reasons(ranking, count, precision))
        if met is not None:
            break
    else:
        best = min(trial.loss for trial in trials)
        raise CalibrationError(
            f"{precision} misses its budget of {budget:.6g} even with "
            f"{max(trial.kept for trial in trials)} of {len(ranking)} nodes kept wider; "
            f"the least loss was {best:.6g}",
            hint="calibrate on more or other images, use a wider precision, or allow more by --budget",
        )
    missed = max(trial.kept for trial in trials if trial.kept < len(met.keep))
    while len(met.keep) - missed > 1:
        middle = (missed + len(met.keep)) // 2
        fewer = attempt(reasons(ranking, middle, precision))
        if fewer is not None:
            met = fewer
        else:
            missed = middle
    return replace(met, trials=tuple(trials))


def _counts(most: int) -> Iterator[int]:
    """1, 2, 4, ... and `most`, then the middles between 0 and all of these, the largest first."""
    doubled = [0]
    while doubled[-1] < most:
        doubled.append(min(max(1, 2 * doubled[-1]), most))
        yield doubled[-1]
    yield from (low + (high - low) // 2 for low, high in reversed([*pairwise(doubled)]) if high - low > 1)


def reasons(ranking: Sequence[Sensitivity], count: int, precision: str = "INT8") -> dict[str, str]:
    """Why each of the first `count` nodes of a ranking stays wider."""
    return {
        found.node: f"{precision} misses its budget without it: number {number} of {len(ranking)} by the "
        f"rounding error of its result, {found.decibels:.1f} dB"
        for number, found in enumerate(ranking[:count], start=1)
    }
