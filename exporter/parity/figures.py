"""The parity report as rich tables: one row a comparison, figures beside their limits, and every failure."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgewise.exporter.parity.report import (
    Against,
    Comparison,
    ParityReport,
    StageReport,
    Status,
)
from edgewise.runtime.compare.checks import Check, Level


def columns(report: ParityReport) -> tuple[tuple[str, Level, str], ...]:
    """Heading, level and figure of the checks that have a column."""
    return (
        ("rel. error", Level.RAW, "relative error"),
        ("cosine", Level.RAW, "cosine"),
        ("matched", Level.DECODED, "matched fraction"),
        (report.similarity, Level.DECODED, "mean similarity"),
        ("Δ score", Level.DECODED, "mean score difference"),
        (f"{report.metric.split()[-1].split('@')[0]} drop", Level.METRIC, f"{report.metric} drop"),
    )


def report_tables(report: ParityReport) -> RenderableType:
    """Both tables, the notes and the verdict."""
    parts: list[RenderableType] = [
        comparison_table(report, Against.REFERENCE),
        comparison_table(report, Against.BEFORE),
    ]
    parts.append(Text(_metric_line(report)))
    parts += [Text(f"note: {note}", style="dim") for note in report.notes]
    parts += [
        Text(f"not run, proves nothing: {', '.join(titles)} ({reason})", style="yellow")
        for reason, titles in not_run(report).items()
    ]
    failures = report.failures()
    parts += [Text(f"✗ {failure}", style="red") for failure in failures]
    parts += [
        Text(f"  {_title(report, comparison)}: against {found.against}, image {found.image}: {found.detail}")
        for comparison in report.comparisons
        if (found := comparison.divergence) is not None
    ]
    parts.append(verdict(report))
    return Group(*parts)


def _title(report: ParityReport, comparison: Comparison) -> str:
    return report.stage(comparison.candidate).title


def _metric_line(report: ParityReport) -> str:
    known = [(stage.title, stage.metrics.get(report.metric)) for stage in report.stages]
    figures = ", ".join(f"{title} {value:.4f}" for title, value in known if value is not None)
    return f"{report.metric}: {figures or 'measured on no stage'}"


def not_run(report: ParityReport) -> dict[str, list[str]]:
    """Reason -> titles of the stages that could not run here for it."""
    stages: dict[str, list[str]] = {}
    for stage in report.stages:
        if stage.status is Status.NOT_RUN:
            stages.setdefault("; ".join(stage.problems), []).append(stage.title)
    return stages


def verdict(report: ParityReport) -> Text:
    """One line: passed or failed, over how much."""
    checks = [check for comparison in report.comparisons for check in comparison.checks]
    broken = sum(not check.passed for check in checks)
    text = f"{len(checks) - broken} of {len(checks)} checks hold on {report.images} images"
    if report.passed:
        return Text(f"✓ parity holds: {text}", style="bold green")
    return Text(f"✗ parity is broken: {text}", style="bold red")


def comparison_table(report: ParityReport, against: Against) -> Table:
    """One row for each stage that ran; a cell holds the figure, and its limit below in dim."""
    if against is Against.REFERENCE:
        title = f"{report.bundle}: every stage against {report.stage(report.reference).title}"
    else:
        title = "every stage against the one that it was made from"
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("stage", overflow="fold")
    for heading, _, _ in columns(report):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for stage in report.stages:
        comparison = report.comparison(stage.name, against)
        if comparison is not None:
            made_from = report.stage(comparison.reference).title
            name = stage.title if against is Against.REFERENCE else f"{stage.title} ← {made_from}"
            table.add_row(name, *_cells(report, stage, comparison))
    return table


def _cells(report: ParityReport, stage: StageReport, comparison: Comparison) -> list[RenderableType]:
    checks = {(check.level, check.figure): check for check in comparison.checks}
    cells: list[RenderableType] = [_cell(checks.get((level, figure))) for _, level, figure in columns(report)]
    passed = comparison.passed and stage.status is not Status.FAILED
    return [*cells, Text("✓", style="green") if passed else Text("✗", style="bold red")]


def _cell(check: Check | None) -> Text:
    if check is None:
        return Text("–", style="dim")
    text = Text(figure_text(check), style="" if check.passed else "bold red")
    return text.append(f"\n{limit_text(check)}", style="dim")


def limit_text(check: Check) -> str:
    """The limit with its direction, e.g. `≤0.02`."""
    return f"{'≥' if check.at_least else '≤'}{check.limit:g}"


def figure_text(check: Check) -> str:
    """A figure with as many digits as its kind deserves: errors in powers of ten, shares in decimals."""
    if check.value is None:
        return "none"
    if check.at_least:
        return f"{check.value:.6f}" if check.level is Level.RAW else f"{check.value:.4f}"
    if check.level is Level.METRIC:
        return f"{round(check.value, 4) + 0.0:+.4f}"
    return f"{check.value:.1e}" if check.value and check.level is Level.RAW else f"{check.value:.4f}"
