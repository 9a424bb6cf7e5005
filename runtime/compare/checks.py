"""Figures beside their limits: how a budget judges tensors, and the matched results of several frames.

What is compared of a graph's outputs depends on what they are; the kind of result says which is which:

- float tensors by largest relative error and cosine;
- the scores of sorted slots slot by slot, because two near-equal things may change places;
- maps of class numbers by the share of equal pixels. The least share is the budget's least mean similarity:
  where every segment keeps that intersection over union, at least that share is equal.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from edgewise.runtime.compare.matching import MatchTally
from edgewise.runtime.compare.tensors import difference, equal_share
from edgewise.runtime.contract.manifest import Budget, Graph, Manifest, TensorSpec
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.engines.base import Tensor

RANGE_SLACK = 1e-3
"""Share of a declared range by which a value may leave it: rounding, not a wrong activation."""


class Level(enum.Enum):
    """What a check looks at."""

    RUN = "run"
    """The stage runs, and gives exactly the declared tensors with finite values."""
    RAW = "raw"
    DECODED = "decoded"
    METRIC = "metric"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One figure beside its limit.

    Attributes:
        level: What is looked at.
        figure: Its name.
        value: None where there is nothing to compare; such a check has failed, as one with NaN or infinity.
        at_least: Whether the limit is the least value allowed, not the largest.
        subject: A tensor's name, or which result.
        sample: On what: a golden's image, or all of them.
        note: What else a reader may want to know.
    """

    level: Level
    figure: str
    value: float | None
    limit: float
    at_least: bool = False
    subject: str = ""
    sample: str = ""
    note: str = ""

    @property
    def passed(self) -> bool:
        if self.value is None or not math.isfinite(self.value):
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def share_of_limit(self) -> float:
        """Distance from perfect agreement over the distance allowed; infinite where nothing is known."""
        if self.value is None or math.isnan(self.value):
            return math.inf
        used, room = (1.0 - self.value, 1.0 - self.limit) if self.at_least else (self.value, self.limit)
        if used <= 0.0:
            return 0.0
        return used / room if room > 0.0 else math.inf

    @property
    def where(self) -> str:
        """Sample and subject in one text, for errors."""
        return f"{self.sample} {self.subject}".strip()


def decoded_checks(sample: str, tally: MatchTally, budget: Budget) -> tuple[Check, ...]:
    """The decoded level of a budget.

    Where fewer things are judged than its share can resolve, one of several may still be without a partner:
    of seven things, 0.98 would allow none, and a tie would decide. A budget of 1 allows none.
    """
    least = budget.matched_fraction
    things = min(tally.reference_count, tally.candidate_count)
    if things > 1 and least < 1.0:
        least = min(least, (things - 1) / things)
    figures = (
        ("matched fraction", tally.matched_fraction, least, True),
        ("mean similarity", tally.similarity, budget.similarity, True),
        ("mean score difference", tally.score_difference, budget.score_difference, False),
    )
    return tuple(
        Check(
            level=Level.DECODED,
            figure=figure,
            value=value,
            limit=limit,
            at_least=at_least,
            subject="result",
            sample=sample,
        )
        for figure, value, limit, at_least in figures
    )


def output_checks(
    sample: str,
    manifest: Manifest,
    graph: Graph,
    reference: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    budget: Budget,
) -> list[Check]:
    """What one run gave against the reference, as the module's text says.

    Float outputs are compared where the graph declares no probes and they are no sorted slots; probes where
    `found` shows them.

    Args:
        manifest: Its kind of result says which outputs are slots and maps.
        graph: Names of outputs and probes.
        reference: Outputs and probes of the training definition for one look.
        found: What an engine gave for it.
    """
    kind, spec = kind_of(manifest), manifest.postprocess
    wanted, given = kind.compared(spec, manifest, reference), kind.compared(spec, manifest, found)
    checks: list[Check] = []
    if wanted.slots is not None:
        checks.append(_slot_check(sample, wanted.slots, reference[wanted.slots], found[wanted.slots], budget))
    elif not graph.probes:
        floats = [
            output
            for output in graph.outputs
            if output.dtype.value.startswith("float") and output.name not in wanted.maps
        ]
        checks += tensor_checks(sample, floats, reference, found, budget)
    for name, expected in wanted.maps.items():
        equal = equal_share(expected, given.maps[name])
        checks.append(equal_check(name, equal, budget, sample))
    exposed = [probe for probe in graph.probes if probe.name in found]
    return checks + tensor_checks(sample, exposed, reference, found, budget)


def tensor_checks(
    sample: str,
    specs: Iterable[TensorSpec],
    reference: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    budget: Budget,
) -> list[Check]:
    """Largest relative error and cosine of each float tensor, by exact name."""
    checks: list[Check] = []
    for spec in specs:
        apart = difference(found[spec.name], reference[spec.name])
        checks += [
            error_check(spec.name, apart.relative, budget, sample),
            cosine_check(spec.name, apart.cosine, budget, sample),
        ]
    return checks


def error_check(subject: str, relative: float | None, budget: Budget, sample: str = "") -> Check:
    """The largest relative error of a float tensor; None where it is not finite."""
    return Check(
        level=Level.RAW,
        figure="relative error",
        value=relative,
        limit=budget.tensor_relative_error,
        subject=subject,
        sample=sample,
    )


def cosine_check(subject: str, cosine: float | None, budget: Budget, sample: str = "") -> Check:
    """The cosine of a float tensor and its reference."""
    return Check(
        level=Level.RAW,
        figure="cosine",
        value=cosine,
        limit=budget.tensor_cosine,
        at_least=True,
        subject=subject,
        sample=sample,
    )


def equal_check(subject: str, share: float | None, budget: Budget, sample: str = "") -> Check:
    """The share of equal elements of integers, such as the pixels of a map."""
    return Check(
        level=Level.RAW,
        figure="equal share",
        value=share,
        limit=budget.similarity,
        at_least=True,
        subject=subject,
        sample=sample,
    )


def range_checks(sample: str, specs: Sequence[TensorSpec], outputs: Mapping[str, Tensor]) -> list[Check]:
    """Whether values stay in the range that the manifest declares, where it declares one."""
    checks: list[Check] = []
    for spec in specs:
        if spec.value_range is not None:
            low, high = spec.value_range
            tensor = outputs[spec.name]
            outside = max(low - float(tensor.min()), float(tensor.max()) - high, 0.0)
            checks.append(
                Check(
                    level=Level.RUN,
                    figure="outside its range by",
                    value=outside,
                    limit=RANGE_SLACK * (high - low),
                    subject=spec.name,
                    sample=sample,
                )
            )
    return checks


def _slot_check(sample: str, subject: str, stored: Tensor, found: Tensor, budget: Budget) -> Check:
    """Mean difference of the sorted scores.

    Sorting makes slots comparable: the n-th largest score moves no further than the scores do, even where
    two near-equal instances change places.
    """
    wanted = -np.sort(-stored.astype(np.float64).ravel())
    given = -np.sort(-found.astype(np.float64).ravel())
    occupied = (wanted > 0) | (given > 0)
    return Check(
        level=Level.RAW,
        figure="slot difference",
        value=float(np.abs(wanted - given)[occupied].mean()) if occupied.any() else 0.0,
        limit=budget.score_difference,
        subject=subject,
        sample=sample,
    )
