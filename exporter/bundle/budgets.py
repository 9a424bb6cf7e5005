"""The differences from FP32 torch that a bundle allows by default, per precision.

The three levels are those of `edgewise parity`: raw tensors, decoded results, the task's metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from edgewise.runtime.contract.manifest import Budget, Precision
from edgewise.runtime.system.errors import ExportError

FP32 = Budget(
    precision=Precision.FP32,
    tensor_relative_error=1e-4,
    tensor_cosine=0.999999,
    matched_fraction=1.0,
    similarity=0.995,
    score_difference=1e-4,
    metric_drop=1e-4,
)
"""Another order of additions, nothing else."""

FP16 = Budget(
    precision=Precision.FP16,
    tensor_relative_error=5e-2,
    tensor_cosine=0.9999,
    matched_fraction=0.98,
    similarity=0.98,
    score_difference=5e-3,
    metric_drop=1e-3,
)
"""Eleven bits of significand in convolutions, accumulated over the depth of a network."""

INT8 = Budget(
    precision=Precision.INT8,
    tensor_relative_error=2.0,
    tensor_cosine=0.99,
    matched_fraction=0.95,
    similarity=0.95,
    score_difference=2e-2,
    metric_drop=1e-2,
)
"""One of 255 steps per activation: a single value may even change its sign, a tensor as a whole and the
decoded results must not move. The cosine judges raw tensors here."""

DEFAULT_BUDGETS = (FP32, FP16, INT8)
"""For every task alike: the similarity and the metric are the task's own."""

LIMITS = {
    "error": "tensor_relative_error",
    "cosine": "tensor_cosine",
    "matched": "matched_fraction",
    "similarity": "similarity",
    "score": "score_difference",
    "metric": "metric_drop",
}
"""The limits of a budget by the short names that the command line takes; it takes the fields' names too."""


def changed_budgets(budgets: Sequence[Budget], settings: Sequence[str]) -> tuple[Budget, ...]:
    """Budgets with some limits changed.

    Args:
        settings: As on the command line, such as `int8.matched=0.9`.

    Raises:
        ExportError: No precision with a budget, no limit, or a value that the limit cannot have.
    """
    changed = {budget.precision.value: budget for budget in budgets}
    for setting in settings:
        address, _, text = setting.partition("=")
        precision, _, limit = address.partition(".")
        field = LIMITS.get(limit, limit)
        if precision not in changed or field not in LIMITS.values():
            raise ExportError(
                f"{setting!r} is no limit of a budget",
                where="--budget",
                hint=f"PRECISION.LIMIT=VALUE, of {', '.join(changed)} and {', '.join(LIMITS)}",
            )
        try:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError("it must be finite")
            fields = msgspec.to_builtins(changed[precision]) | {field: value}
            changed[precision] = msgspec.convert(fields, Budget)
        except ValueError as error:  # of float and of msgspec
            raise ExportError(
                f"{text!r} is no value of a budget's {field}", where=setting, hint=str(error)
            ) from None
    return tuple(changed.values())
