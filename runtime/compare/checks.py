"""Figures beside their limits: how a budget judges outputs, and the matched results of several frames.

What is compared of a graph's outputs depends on what they are:

- float tensors by largest relative error and cosine;
- the scores of sorted slots slot by slot, because two near-equal things may change places;
- maps of class or segment numbers by the share of equal pixels. The least share is the budget's least mean
  similarity: where every segment keeps that intersection over union, at least that share is equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.compare.matching import Matching
from edgewise.runtime.contract.manifest import Budget, ClassKind, Graph, Manifest, TensorSpec
from edgewise.runtime.contract.postprocessing import PanopticFusion, PanopticSegments
from edgewise.runtime.engines.base import Tensor

RANGE_SLACK = 1e-3
"""Share of a declared range by which a value may leave it: rounding, not a wrong activation."""

UNKNOWN, IMPOSSIBLE = -1, -2
"""In a class map: a pixel that the panoptic head leaves open, and a code that it cannot mean."""


@dataclass(frozen=True)
class Check:
    """One figure beside its limit.

    Attributes:
        subject: What was looked at: a tensor, the decoded result, ...
        at_least: Whether the limit is the least value allowed, not the largest.
        sample: On what: a golden's image, or all of them.
    """

    subject: str
    quantity: str
    value: float
    limit: float
    at_least: bool = False
    sample: str = ""

    @property
    def passed(self) -> bool:
        """NaN never passes."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def where(self) -> str:
        """Sample and subject in one text, for errors."""
        return f"{self.sample} {self.subject}".strip()


def budget_checks(sample: str, matching: Matching, budget: Budget) -> tuple[Check, ...]:
    """The decoded level of a budget."""
    figures = (
        ("matched fraction", matching.matched_fraction, budget.matched_fraction, True),
        ("mean similarity", matching.similarity, budget.similarity, True),
        ("mean score difference", matching.score_difference, budget.score_difference, False),
    )
    return tuple(
        Check("result", quantity, value, limit, at_least, sample)
        for quantity, value, limit, at_least in figures
    )


def tensor_level(
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
        manifest: Its postprocessing says which outputs are slots and maps.
        graph: Names of outputs and probes.
        reference: Outputs and probes of the training definition for one look.
        found: What an engine gave for it.
    """
    scores = getattr(manifest.postprocess, "scores", None)
    checks: list[Check] = []
    if isinstance(scores, str):
        checks.append(_slot_check(sample, scores, reference[scores], found[scores], budget))
    elif not graph.probes:
        floats = [spec for spec in graph.outputs if spec.dtype.value.startswith("float")]
        checks += tensor_checks(sample, floats, reference, found, budget)
    found_maps = class_maps(manifest, found)
    for name, wanted in class_maps(manifest, reference).items():
        equal = equal_share(wanted, found_maps[name])
        checks.append(Check(name, "equal pixels", equal, budget.similarity, True, sample=sample))
    exposed = [spec for spec in graph.probes if spec.name in found]
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
        wanted = reference[spec.name].astype(np.float64).ravel()
        given = found[spec.name].astype(np.float64).ravel()
        scale = float(np.abs(wanted).max())
        error = float(np.abs(given - wanted).max()) / (scale or 1.0)
        norms = float(np.linalg.norm(wanted) * np.linalg.norm(given))
        cosine = float(wanted @ given) / norms if norms else float(not wanted.any() and not given.any())
        checks.append(Check(spec.name, "relative error", error, budget.tensor_relative_error, sample=sample))
        checks.append(Check(spec.name, "cosine", cosine, budget.tensor_cosine, True, sample=sample))
    return checks


def range_checks(sample: str, specs: Sequence[TensorSpec], outputs: Mapping[str, Tensor]) -> list[Check]:
    """Whether values stay in the range that the manifest declares, where it declares one."""
    checks: list[Check] = []
    for spec in specs:
        if spec.value_range is not None:
            low, high = spec.value_range
            tensor = outputs[spec.name]
            outside = max(low - float(tensor.min()), float(tensor.max()) - high, 0.0)
            limit = RANGE_SLACK * (high - low)
            checks.append(Check(spec.name, "outside its range by", outside, limit, sample=sample))
    return checks


def class_maps(manifest: Manifest, outputs: Mapping[str, Tensor]) -> dict[str, NDArray[np.int64]]:
    """The maps among a graph's outputs as class numbers, int64 [1, h, w]; empty where it gives none.

    A map of slots becomes a map of their classes, because which slot a thing has is a matter of near-equal
    scores. Semantic logits become the channel of the largest.
    """
    spec = manifest.postprocess
    if isinstance(spec, PanopticFusion):
        semantic = outputs[spec.semantic]
        logits = np.issubdtype(semantic.dtype, np.floating)
        return {spec.semantic: semantic.argmax(axis=1) if logits else semantic.astype(np.int64)}
    if not isinstance(spec, PanopticSegments):
        return {}
    stuff = [index for index, label in enumerate(manifest.classes) if label.kind is ClassKind.STUFF]
    meaning = np.array([*stuff, *outputs[spec.classes].ravel().tolist(), UNKNOWN], np.int64)
    codes = outputs[spec.segments].astype(np.int64)
    known = (codes >= 0) & (codes < len(meaning))
    return {
        spec.segments: np.where(known, meaning[codes.clip(0, len(meaning) - 1)], IMPOSSIBLE),
        spec.semantic: outputs[spec.semantic].astype(np.int64),
    }


def equal_share(first: Tensor, second: Tensor) -> float:
    """Share of elements in which two arrays of the same shape are equal; 1 where they have none."""
    return float((first == second).mean()) if first.size else 1.0


def _slot_check(sample: str, subject: str, stored: Tensor, found: Tensor, budget: Budget) -> Check:
    """Mean difference of the sorted scores.

    Sorting makes slots comparable: the n-th largest score moves no further than the scores do, even where
    two near-equal instances change places.
    """
    wanted = -np.sort(-stored.astype(np.float64).ravel())
    given = -np.sort(-found.astype(np.float64).ravel())
    occupied = (wanted > 0) | (given > 0)
    value = float(np.abs(wanted - given)[occupied].mean()) if occupied.any() else 0.0
    return Check(subject, "slot difference", value, budget.score_difference, sample=sample)
