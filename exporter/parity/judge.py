"""From tallies and a budget to checks: pure, so that a test can ask what a given figure would do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from edgewise.exporter.parity.report import (
    DecodedFigures,
    MetricFigures,
    TensorFigures,
    finite,
)
from edgewise.runtime.compare.checks import (
    Check,
    Level,
    cosine_check,
    decoded_checks,
    equal_check,
    error_check,
)
from edgewise.runtime.compare.matching import MatchTally
from edgewise.runtime.compare.tensors import TensorTally
from edgewise.runtime.contract.manifest import Budget, Manifest


def tensor_name(manifest: Manifest, graph: str, name: str) -> str:
    """What a graph's tensor is called in a comparison: behind its graph's name where a bundle has several."""
    return f"{graph}.{name}" if len(manifest.graphs) > 1 else name


def judged_tensors(manifest: Manifest) -> frozenset[str]:
    """What the raw level judges: each graph's probes, or the outputs of a graph that has none.

    Returns:
        Names as `tensor_name` gives them.
    """
    return frozenset(
        tensor_name(manifest, graph, spec.name)
        for graph, each in manifest.graphs.items()
        for spec in each.probes or each.outputs
    )


def tensor_figures(
    tallies: Mapping[str, TensorTally], probes: Collection[str], judged: Collection[str]
) -> tuple[TensorFigures, ...]:
    """Figures of every compared tensor, by name; `judged` says which of them the raw level judges."""
    return tuple(
        TensorFigures(
            name=name,
            probe=name in probes,
            judged=name in judged,
            max_abs=tally.max_abs,
            mean_abs=tally.mean_abs,
            relative=finite(tally.relative) if tally.equal is None else None,
            cosine=tally.cosine if tally.equal is None else None,
            equal=tally.equal,
            worst_image=tally.worst_frame,
        )
        for name, tally in tallies.items()
    )


def decoded_figures(tally: MatchTally) -> DecodedFigures:
    return DecodedFigures(
        reference_count=tally.reference_count,
        candidate_count=tally.candidate_count,
        matched=tally.reference_found + tally.candidate_found,
        pairs=tally.pairs,
        matched_fraction=tally.matched_fraction,
        similarity=tally.similarity,
        score_difference=tally.score_difference,
        largest_score_difference=tally.largest_score_difference,
        images_both_empty=tally.both_empty,
        images_one_empty=tally.one_empty,
        worst_image=tally.worst_frame,
    )


def run_check(compared: int, images: int) -> Check:
    """Every image was compared."""
    return Check(level=Level.RUN, figure="images compared", value=compared, limit=images, at_least=True)


def raw_checks(figures: Sequence[TensorFigures], budget: Budget, *, blind: bool = False) -> tuple[Check, ...]:
    """The worst judged tensor by error and by cosine, and of integers by the share of equal elements.

    As in the self test, the least equal share is the budget's least mean similarity.

    Args:
        blind: The stage cannot show the probes (a built engine); its outputs are reported, not judged.
    """
    judged = [figure for figure in figures if figure.judged]
    if blind and not judged:
        return ()
    if not judged:
        return (_nothing(Level.RAW, "relative error", budget.tensor_relative_error, at_least=False),)
    floats = [figure for figure in judged if figure.cosine is not None]
    integers = [figure for figure in judged if figure.equal is not None]
    return (*_float_checks(floats, budget), *_equal_checks(integers, budget))


def _float_checks(figures: Sequence[TensorFigures], budget: Budget) -> Iterator[Check]:
    if not figures:
        return
    by_error = max(figures, key=lambda figure: float("inf") if figure.relative is None else figure.relative)
    by_cosine = min(figures, key=lambda figure: figure.cosine or 0.0)
    yield _noted(error_check(by_error.name, by_error.relative, budget), _where(by_error))
    yield _noted(cosine_check(by_cosine.name, by_cosine.cosine, budget), _where(by_cosine))


def _equal_checks(figures: Sequence[TensorFigures], budget: Budget) -> Iterator[Check]:
    if not figures:
        return
    worst = min(figures, key=lambda figure: figure.equal or 0.0)
    yield _noted(equal_check(worst.name, worst.equal, budget), _where(worst))


def _noted(check: Check, note: str) -> Check:
    return msgspec.structs.replace(check, note=note)


def result_checks(tally: MatchTally, budget: Budget) -> tuple[Check, ...]:
    """Matching, similarity and scores; a reference that shows nothing at all proves nothing and fails."""
    matched, similarity, score = decoded_checks("all images", tally, budget)
    found, things = (
        tally.reference_found + tally.candidate_found,
        tally.reference_count + tally.candidate_count,
    )
    return (
        Check(
            level=Level.DECODED,
            figure="shown by the reference",
            value=tally.reference_count,
            limit=1,
            at_least=True,
        ),
        _noted(matched, f"{found} of {things}"),
        Check(
            level=Level.DECODED,
            figure="images empty on both sides or on neither",
            value=1.0 - tally.one_empty / max(tally.frames, 1),
            limit=budget.matched_fraction,
            at_least=True,
            note=f"{tally.one_empty} of {tally.frames} empty on one side",
        ),
        similarity,
        score,
    )


def metric_checks(figures: MetricFigures, budget: Budget) -> tuple[Check, ...]:
    """The drop is one-sided: a better candidate passes. A reference of 0 has nothing to lose and fails."""
    nothing_to_lose = figures.reference is not None and figures.reference <= 0.0
    return (
        Check(
            level=Level.METRIC,
            figure=f"{figures.name} drop",
            value=None if nothing_to_lose else figures.drop,
            limit=budget.metric_drop,
            note="the reference has none to lose" if nothing_to_lose else _both(figures),
        ),
    )


def _both(figures: MetricFigures) -> str:
    if figures.reference is None or figures.candidate is None:
        return "not measured on every image"
    return f"{figures.reference:.4f} to {figures.candidate:.4f}"


def _nothing(level: Level, figure: str, limit: float, *, at_least: bool) -> Check:
    return Check(level=level, figure=figure, value=None, limit=limit, at_least=at_least)


def _where(figure: TensorFigures) -> str:
    image = "" if figure.worst_image is None else f", image {figure.worst_image}"
    return f"{figure.name}{image}" if figure.relative != 0 else figure.name
