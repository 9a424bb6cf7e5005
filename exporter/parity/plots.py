"""The report's plots as inline SVG; their colours are the page's CSS variables, so they follow its theme."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgewise.exporter.parity.report import (
    Against,
    LayerCurve,
    ParityReport,
    ScorePairs,
    StageReport,
    Status,
    TensorFigures,
)
from edgewise.runtime.contract.manifest import Precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins for CSS variables: matplotlib takes no `var()`, so each is replaced in the finished SVG.
INK, MUTED, GRID, PANEL = "#0a0001", "#0a0002", "#0a0003", "#0a0004"
FP32, FP16, INT8, BROKEN = "#0a0005", "#0a0006", "#0a0007", "#0a0008"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PANEL: "--panel",
    FP32: "--fp32",
    FP16: "--fp16",
    INT8: "--int8",
    BROKEN: "--bad",
}
_COLOURS = {Precision.FP32: FP32, Precision.FP16: FP16, Precision.INT8: INT8}
WIDTH = 5.2
SMALLEST_ERROR = 1e-8
"""Errors below this, zero among them, are drawn here: a logarithmic axis has no zero."""


@dataclass(frozen=True)
class Plot:
    title: str
    caption: str
    svg: str


def all_plots(report: ParityReport) -> list[Plot]:
    """Every plot that the report has data for."""
    plots = [error_plot(report), metric_plot(report)]
    if report.curves:
        plots.append(depth_plot(report))
    return plots


def error_plot(report: ParityReport) -> Plot:
    """Worst relative error of every compared tensor, a row a stage, the budget as a tick."""
    rows = [
        (report.stage(comparison.candidate), comparison)
        for comparison in report.comparisons
        if Against.REFERENCE in comparison.against
    ]
    with _figure("error", 0.42 * len(rows) + 1.0) as (figure, axes):
        axes.set_xscale("log")
        for row, (stage, comparison) in enumerate(rows):
            colour = _COLOURS[stage.precision]
            values = [
                max(figures.relative, SMALLEST_ERROR)
                for figures in comparison.tensors
                if figures.judged and figures.relative is not None
            ]
            limit = report.budgets[stage.precision.value]["tensor_relative_error"]
            axes.plot([limit, limit], [row - 0.36, row + 0.36], color=INK, linewidth=1.6)
            if values:
                axes.plot([min(values), max(values)], [row, row], color=colour, linewidth=2.2, alpha=0.45)
                axes.plot(values, [row] * len(values), "o", color=colour, markersize=4.5)
                axes.plot(max(values), row, "o", color=colour, markersize=8)
            if comparison.images == 0 or any(not comparable(figures) for figures in comparison.tensors):
                axes.annotate(
                    "not comparable",
                    (0.01, row),
                    xycoords=("axes fraction", "data"),
                    color=BROKEN,
                    va="center",
                )
        _stage_axis(axes, [stage for stage, _ in rows])
        left, right = axes.get_xlim()
        axes.set_xlim(left / 2, right * 2)
        axes.set_xlabel(f"max |a − b| / max |b| against {report.stage(report.reference).title}")
        return Plot(
            "Raw tensors",
            "One dot a tensor (its worst image), the large one is the worst. The upright tick is the budget: "
            "dots left of it hold.",
            _svg(figure, "error"),
        )


def comparable(figures: TensorFigures) -> bool:
    """Whether a tensor has figures at all: a finite error, or a share of equal integers."""
    return figures.relative is not None or figures.equal is not None


def metric_plot(report: ParityReport) -> Plot:
    """The task's metric of every stage, and how far each may fall."""
    stages = [stage for stage in report.stages if stage.status is not Status.NOT_RUN]
    reference = report.stage(report.reference).metrics.get(report.metric)
    values = [stage.metrics.get(report.metric) for stage in stages]
    with _figure("metric", 0.42 * len(stages) + 1.0) as (figure, axes):
        known = [value for value in values if value is not None]
        for row, (stage, value) in enumerate(zip(stages, values, strict=True)):
            if value is None:
                axes.annotate(
                    "not measured", (0.01, row), xycoords=("axes fraction", "data"), color=BROKEN, va="center"
                )
                continue
            colour = MUTED if stage.name == report.reference else _COLOURS[stage.precision]
            axes.barh(row, value, height=0.62, color=colour, alpha=0.85)
            axes.annotate(
                f" {value:.4f}{_change(value, reference, stage, report)}",
                (value, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                fontsize=9,
            )
            if reference is not None and stage.name != report.reference:
                least = reference - report.budgets[stage.precision.value]["metric_drop"]
                axes.plot([least, least], [row - 0.36, row + 0.36], color=INK, linewidth=1.6)
        _stage_axis(axes, stages)
        axes.set_xlim(0, max(known, default=1.0) * 1.35 or 1.0)
        axes.set_xlabel(report.metric)
        return Plot(
            "Task metric",
            f"{report.metric} of every stage on the same {report.images} images. The upright tick is the "
            "least that the budget allows; more than the reference is fine.",
            _svg(figure, "metric"),
        )


def depth_plot(report: ParityReport) -> Plot:
    """Error of every shared inner tensor by depth, a line a lowered file."""
    with _figure("depth", 3.6, width=9.6) as (figure, axes):
        axes.set_yscale("log")
        labelled: set[Precision] = set()
        for number, curve in enumerate(report.curves):
            stage = report.stage(curve.candidate)
            colour = _COLOURS[stage.precision]
            style = "-" if stage.name == stage.precision.value else ("--", ":", "-.")[number % 3]
            axes.plot(
                [layer.depth for layer in curve.layers],
                [_drawn(layer.relative) for layer in curve.layers],
                style,
                color=colour,
                linewidth=1.5,
                label=f"{stage.title} against {report.stage(curve.reference).title}",
            )
            if stage.precision not in labelled:
                _label_worst(axes, curve, colour)
            labelled.add(stage.precision)
        axes.set_xlabel("inner tensor, in the order of the graph")
        axes.set_ylabel("relative error")
        axes.margins(y=0.18)
        legend = axes.legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=2, frameon=False, fontsize=9)
        for text in legend.get_texts():
            text.set_color(INK)
        return Plot(
            "Error by depth",
            "Tensors that a lowered file shares with the one that it was made from, up to the raw heads, on "
            "the image that differs most. The largest error of each precision is named.",
            _svg(figure, "depth"),
        )


def score_plot(report: ParityReport, scores: ScorePairs) -> Plot:
    """Scores of matched things: the diagonal is agreement."""
    stage = report.stage(scores.candidate)
    with _figure(f"scores-{stage.name}", 3.1, width=3.2) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9)
        axes.plot(
            [pair[0] for pair in scores.pairs],
            [pair[1] for pair in scores.pairs],
            "o",
            color=_COLOURS[stage.precision],
            markersize=3,
            alpha=0.5,
            markeredgewidth=0,
        )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_aspect("equal")
        axes.set_xlabel(report.stage(scores.reference).title)
        axes.set_ylabel(stage.title)
        caption = f"{len(scores.pairs)} pairs"
        return Plot(stage.title, caption, _svg(figure, f"scores-{stage.name}"))


def score_plots(report: ParityReport) -> list[Plot]:
    """One small plot for each lowered file or engine that found something."""
    return [
        score_plot(report, scores)
        for scores in report.scores
        if scores.pairs and _is_lowered(report.stage(scores.candidate))
    ]


# ---------------------------------------------------------------- parts


def _is_lowered(stage: StageReport) -> bool:
    return stage.before is not None and stage.name not in ("exported", "canonical")


def _change(value: float, reference: float | None, stage: StageReport, report: ParityReport) -> str:
    if reference is None or stage.name == report.reference:
        return ""
    return f"  ({round(value - reference, 4) + 0.0:+.4f})"


def _drawn(relative: float | None) -> float:
    return float("nan") if relative is None else max(relative, SMALLEST_ERROR)


def _label_worst(axes: Axes, curve: LayerCurve, colour: str) -> None:
    known = [
        layer for layer in curve.layers if layer.relative is not None and layer.relative > SMALLEST_ERROR
    ]
    if not known:
        return
    worst = max(known, key=lambda layer: layer.relative or 0.0)
    assert worst.relative is not None
    late = worst.depth > 0.6 * len(curve.layers)
    axes.plot(worst.depth, worst.relative, "o", color=colour, markersize=5)
    axes.annotate(
        worst.node,
        (worst.depth, worst.relative),
        xytext=(-6 if late else 6, 5),
        textcoords="offset points",
        ha="right" if late else "left",
        color=colour,
        fontsize=8.5,
    )


def _stage_axis(axes: Axes, stages: Sequence[StageReport]) -> None:
    axes.set_yticks(range(len(stages)), [stage.title for stage in stages])
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


@contextmanager
def _figure(name: str, height: float, width: float = WIDTH) -> Iterator[tuple[Figure, Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.labelsize": 9,
        "axes.edgecolor": GRID,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": INK,
        "xtick.minor.visible": False,
        "ytick.minor.visible": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0.0)
        yield figure, figure.add_subplot()


def _svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element that scales with its column and names the page's colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text, count=0).replace("xlink:href", "href")
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', rf'<svg \1role="img" aria-label="{name}"', text, count=1)
    text = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1var(--sans)", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    return text
