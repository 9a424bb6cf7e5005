"""The parity report as one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from edgewise.exporter.parity.figures import columns, figure_text, limit_text, not_run
from edgewise.exporter.parity.gallery import Overlay
from edgewise.exporter.parity.plots import all_plots, score_plots
from edgewise.exporter.parity.report import (
    Against,
    Comparison,
    ParityReport,
    StageReport,
    Status,
    describe,
)
from edgewise.runtime.compare.checks import Check

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Cell:
    """A figure with its limit; `state` is a CSS class: good, bad or none."""

    heading: str
    figure: str
    limit: str
    state: str


@dataclass(frozen=True)
class Row:
    stage: StageReport
    reference: str
    cells: tuple[Cell, ...]
    metric: str
    state: str
    verdict: str


def render_html(report: ParityReport, overlays: Sequence[Overlay]) -> str:
    """The whole page."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (files("edgewise.exporter.parity") / TEMPLATE).read_text(encoding="utf-8")
    checks = [check for comparison in report.comparisons for check in comparison.checks]
    return environment.from_string(text).render(
        report=report,
        reference=report.stage(report.reference),
        metric=report.metric,
        held=sum(check.passed for check in checks),
        checks=len(checks),
        headings=[heading for heading, _, _ in columns(report)],
        against_reference=rows(report, Against.REFERENCE),
        against_before=rows(report, Against.BEFORE),
        failures=[_failure(report, comparison) for comparison in report.comparisons if not comparison.passed],
        stage_problems=[stage for stage in report.stages if stage.status is Status.FAILED],
        not_run=not_run(report),
        idle=sum(stage.status is Status.NOT_RUN for stage in report.stages),
        titles={stage.name: stage.title for stage in report.stages},
        plots=all_plots(report),
        scores=score_plots(report),
        overlays=overlays,
    )


def rows(report: ParityReport, against: Against) -> list[Row]:
    """One row for each stage of a table; stages that did not run are listed apart."""
    found = []
    for stage in report.stages:
        comparison = report.comparison(stage.name, against)
        if comparison is None:
            if against is Against.REFERENCE and stage.name == report.reference:
                found.append(_row(report, stage, "", None, "reference"))
            continue
        passed = comparison.passed and stage.status is not Status.FAILED
        title = report.stage(comparison.reference).title
        found.append(_row(report, stage, title, comparison, "passed" if passed else "failed"))
    return found


_STATES = {"passed": "good", "failed": "bad", "reference": "none"}


def _row(
    report: ParityReport, stage: StageReport, reference: str, comparison: Comparison | None, verdict: str
) -> Row:
    checks = {(check.level, check.figure): check for check in (comparison.checks if comparison else ())}
    cells = tuple(_cell(heading, checks.get((level, figure))) for heading, level, figure in columns(report))
    own = stage.metrics.get(report.metric)
    return Row(stage, reference, cells, "–" if own is None else f"{own:.4f}", _STATES[verdict], verdict)


def _cell(heading: str, check: Check | None) -> Cell:
    if check is None:
        return Cell(heading, "–", "", "none")
    state = "good" if check.passed else "bad"
    return Cell(heading, figure_text(check), limit_text(check), state)


def _failure(report: ParityReport, comparison: Comparison) -> dict[str, object]:
    pair = f"{report.stage(comparison.candidate).title} against {report.stage(comparison.reference).title}"
    return {
        "pair": pair,
        "lines": [describe(check) for check in comparison.checks if not check.passed],
        "divergence": comparison.divergence,
    }
