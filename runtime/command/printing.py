"""What the device verbs print, as rich tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf, isnan
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgewise.runtime.engines.base import describe

if TYPE_CHECKING:  # `doctor` prints what is wrong with an OpenCV that cannot be imported
    from edgewise.runtime.command.doctor import Finding
    from edgewise.runtime.command.selftest import SelfTestReport
    from edgewise.runtime.command.timing import StageTimes
    from edgewise.runtime.compare.checks import Check
    from edgewise.runtime.contract.bundle import Bundle
    from edgewise.runtime.contract.manifest import Graph, Manifest
    from edgewise.runtime.frames.reading import Losses
    from edgewise.runtime.results.kind import Kind
    from edgewise.runtime.results.result import Scored

SHOWN_CLASSES = 12
MOST_NAMED = 8
"""Files that a note names one by one."""


def bundle_tables(bundle: Bundle) -> RenderableType:
    """Everything a manifest says, in the order in which a reader asks."""
    manifest = bundle.manifest
    parts: list[RenderableType] = [_identity(bundle)]
    parts += [_graph(name, graph) for name, graph in manifest.graphs.items()]
    parts += [_decoding(manifest), _files(bundle)]
    if manifest.budgets:
        parts.append(_budgets(manifest))
    if manifest.precisions:
        parts.append(_precisions(manifest))
    return Group(*parts)


def _identity(bundle: Bundle) -> Table:
    manifest = bundle.manifest
    table = _facts(f"{manifest.name}: {manifest.task}")
    names = [label.name for label in manifest.classes]
    shown = ", ".join(names[:SHOWN_CLASSES])
    more = f", and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    _row(table, "written by", f"{manifest.writer}, format {manifest.format}")
    _row(table, "definition", manifest.provenance.definition)
    _row(table, "checkpoint", manifest.provenance.checkpoint_sha256 or "not recorded")
    if manifest.provenance.training_command:
        _row(table, "trained by", manifest.provenance.training_command)
    for step in manifest.provenance.steps:
        _row(table, step.step, f"{step.tool} {step.detail}".strip())
    _row(table, "licence", manifest.licence or "not stated")
    _row(table, f"{len(names)} classes", shown + more if names else "none")
    if manifest.keypoints is not None:
        _row(table, f"{len(manifest.keypoints.names)} keypoints", ", ".join(manifest.keypoints.names))
    return table


def _graph(name: str, graph: Graph) -> Table:
    several = f", 1 to {graph.batch} looks a launch" if graph.batch > 1 else ""
    table = _table(f"graph {name}{several}", "", "tensor", "meaning")
    for role, specs in (("input", graph.inputs), ("output", graph.outputs), ("probe", graph.probes)):
        for spec in specs:
            _row(table, role, describe(spec), spec.meaning)
    return table


def _decoding(manifest: Manifest) -> Table:
    table = _facts("before and after")
    for title, part in (
        ("preprocess", manifest.preprocess),
        ("postprocess", manifest.postprocess),
        ("schedule", manifest.schedule),
        ("calibration", manifest.calibration),
    ):
        _row(table, title, "none" if part is None else _fields(part))
    for state in manifest.state:
        _row(table, f"state {state.name}", f"{state.source} -> {', '.join(state.sinks)}")
    _row(table, "goldens", str(len(manifest.goldens)))
    return table


def _fields(part: object) -> str:
    plain = msgspec.to_builtins(part)
    kind = plain.pop("kind", "")
    return " ".join([str(kind), *(f"{key}={value}" for key, value in plain.items())]).strip()


def _files(bundle: Bundle) -> Table:
    table = _table("files", "path", "size", "SHA-256", "for")
    users: dict[str, list[str]] = {}
    for name, graph in bundle.manifest.graphs.items():
        for file in graph.files:
            use = f"{name}: {file.target.value} {file.precision.value}"
            users.setdefault(file.path, []).append(use)
    for entry in bundle.manifest.files:
        uses = "\n".join(users.get(entry.path, []))
        _row(table, entry.path, f"{entry.size / 1e6:.2f} MB", entry.sha256[:12], uses)
    return table


def _budgets(manifest: Manifest) -> Table:
    table = _table(
        "budgets",
        "precision",
        "tensor error",
        "matched",
        "similarity",
        "score difference",
        "metric drop",
    )
    for budget in manifest.budgets:
        _row(
            table,
            budget.precision.value,
            f"<= {budget.tensor_relative_error:g}",
            f">= {budget.matched_fraction:g}",
            f">= {budget.similarity:g}",
            f"<= {budget.score_difference:g}",
            f"<= {budget.metric_drop:g}",
        )
    return table


def _precisions(manifest: Manifest) -> Table:
    table = _table("precision", "asked", "nodes kept wider", "realised")
    for record in manifest.precisions:
        kept = Counter(node.precision.value for node in record.kept)
        realised = [f"{one.target.value} on {one.device}: {one.counts()}" for one in record.realised]
        _row(
            table,
            f"{record.precision.value}: {record.asked}",
            ", ".join(f"{count} in {width}" for width, count in sorted(kept.items())) or "none",
            "\n".join(realised) or "not built",
        )
    return table


def selftest_table(report: SelfTestReport) -> Table:
    """One line a figure with its worst golden, and one for every further failure."""
    title = f"{report.bundle}, {report.precision.value} on {report.engine}"
    table = _table(title, "", "subject", "figure", "worst", "limit", "golden")
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in report.checks:
        groups.setdefault((check.subject, check.figure), []).append(check)
    for checks in groups.values():
        _selftest_rows(table, sorted(checks, key=_margin))
    return table


def _margin(check: Check) -> float:
    """How far inside its limit a figure is; nothing and NaN are the farthest outside."""
    if check.value is None:
        return -inf
    inside = check.value - check.limit if check.at_least else check.limit - check.value
    return -inf if isnan(inside) else inside


def _selftest_rows(table: Table, checks: Sequence[Check]) -> None:
    shown = [checks[0], *(check for check in checks[1:] if not check.passed)]
    for check in shown:
        verdict = Text("pass", "green") if check.passed else Text("FAIL", "bold red")
        sign = ">=" if check.at_least else "<="
        of = f" of {len(checks)}" if len(checks) > 1 else ""
        _row(
            table,
            verdict,
            check.subject,
            check.figure,
            "nothing" if check.value is None else f"{check.value:.3g}",
            f"{sign} {check.limit:g}",
            check.sample + of,
        )


def timing_table(title: str, times: Sequence[StageTimes]) -> Table:
    """Percentiles and rate of each stage."""
    table = _table(title, "stage", "p50", "p95", "rate")
    for stage in times:
        _row(
            table,
            stage.stage,
            f"{stage.percentile(50):.2f} ms",
            f"{stage.percentile(95):.2f} ms",
            f"{stage.rate:.1f} /s",
        )
    return table


def doctor_table(findings: Iterable[Finding]) -> Table:
    """What is there, what is not, what to install."""
    table = _table("edgewise doctor", "", "what", "state", "advice")
    for finding in findings:
        bad = Text("missing", "bold red") if finding.needed else Text("-", "yellow")
        mark = Text("ok", "green") if finding.good else bad
        _row(table, mark, finding.subject, finding.state, finding.advice)
    return table


def result_table(result: Scored, threshold: float, kind: Kind[Any, Any]) -> Table:
    """What one image holds of at least `threshold`, in the order of the result."""
    shown = result.above(threshold)
    extent, extents = kind.extent(shown) if kind.extent is not None else ("", [""] * len(shown))
    title = f"{kind.nouns.things} of score {threshold:g} and more"
    table = _table(title, "class", "score", "box (x1, y1, x2, y2)", extent)
    rows = zip(shown.names, shown.scores.tolist(), shown.boxes.tolist(), extents, strict=True)
    for name, score, corners, size in rows:
        _row(table, name, f"{score:.3f}", ", ".join(f"{value:.1f}" for value in corners), size)
    return table


def count_table(counts: Counter[str], frames: int, things: str) -> Table:
    """How often each class was seen."""
    table = _table(f"{frames} frames", "class", things)
    for name, count in counts.most_common():
        _row(table, name, str(count))
    return table


def left_out_note(names: tuple[str, ...]) -> str:
    """Which files of a folder were not looked at."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"left out, no images by their names: {', '.join(names[:MOST_NAMED])}{more}"


def unsettled_note(unsettled: int, frames: int) -> str:
    """What a run says where some frames needed more suppression rounds than their graph has."""
    return (
        f"{unsettled} of {frames} frames needed more suppression rounds than the graph has: "
        "a few things there may be too many or missing\n"
        "  images.json of --coco marks them; `edgewise export --golden PICTURE` adds rounds for such pictures"
    )


def loss_lines(losses: Losses) -> list[str]:
    """What a source did not give, a line a thing; nothing where it gave everything."""
    lines: list[str] = []
    skipped = losses.skipped
    if skipped:
        names = ", ".join(f"{image.name} ({image.reason})" for image in skipped[:MOST_NAMED])
        more = f", and {len(skipped) - MOST_NAMED} more" if len(skipped) > MOST_NAMED else ""
        lines.append(f"skipped {len(skipped)}: {names}{more}")
    if losses.dropped:
        lines.append(f"dropped {losses.dropped} frames that came while others were run")
    if losses.reconnected:
        lines.append(f"reconnected {losses.reconnected} times")
    if losses.ended_early:
        lines.append(f"{losses.ended_early}: cut short, or the announcement was an estimate")
    return lines


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row whose strings are shown as they are: `[export]` in a file's name is no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _facts(title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table
