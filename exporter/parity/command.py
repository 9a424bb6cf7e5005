"""`edgewise parity`: compare with a progress bar, print tables, write the report, fail on a broken budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewise.exporter.parity.compare import Compared, compare
from edgewise.exporter.parity.figures import report_tables
from edgewise.exporter.parity.html import render_html
from edgewise.exporter.parity.report import ParityReport, encode_report
from edgewise.exporter.parity.request import ParityRequest
from edgewise.runtime.system.errors import ParityError
from edgewise.runtime.system.output_set import OutputSet
from edgewise.runtime.system.ownership import listed_files

if TYPE_CHECKING:
    from rich.console import Console

JSON_NAME, HTML_NAME = "parity.json", "parity.html"
FAILURES_NAMED = 3


def parity(request: ParityRequest, console: Console | None = None) -> ParityReport:
    """Compare a bundle's stages, print and write what was found.

    Writes `parity.json` and `parity.html` into `request.report_folder`, both or neither, in place of an
    earlier report.

    Args:
        console: Where tables and progress go; standard output and error by default.

    Raises:
        ParityError: A budget is broken (the report is written by then), or nothing can be compared.
        EdgewiseError: Files of these names are there that are no report of edgewise.
        BundleError, DatasetError, CheckpointError: What the request names cannot be read.
    """
    from rich.console import Console

    console = console or Console()
    folder = request.report_folder
    own = listed_files(folder) or ()
    with OutputSet(folder, (JSON_NAME, HTML_NAME), replace=JSON_NAME in own, hint="choose another") as files:
        compared = _with_progress(request)
        report = compared.report
        files.path(JSON_NAME).write_bytes(encode_report(report))
        files.path(HTML_NAME).write_text(render_html(report, compared.overlays), encoding="utf-8")
        files.publish()
    console.print(report_tables(report))
    console.print(f"report: {folder / HTML_NAME}", soft_wrap=True, highlight=False)
    if not report.passed:
        failures = report.failures()
        more = f"\nand {len(failures) - FAILURES_NAMED} more" if len(failures) > FAILURES_NAMED else ""
        raise ParityError(
            "parity is broken: " + "\n".join(failures[:FAILURES_NAMED]) + more,
            where=str(request.bundle),
            hint=f"see {folder / HTML_NAME}",
        )
    return report


def _with_progress(request: ParityRequest) -> Compared:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    shown = Console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as progress:
        task = progress.add_task("opening stages", total=None)

        def update(step: str, done: int, total: int) -> None:
            progress.update(task, description=step, completed=done, total=total)

        return compare(request, update)
