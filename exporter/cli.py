"""The command `edgewise`: the device's verbs, and those of the workstation.

Nothing heavy is imported before a verb needs it; a verb whose packages are missing says which extra to
install.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgewise.exporter.command import bundles, checkpoints, inspecting
from edgewise.exporter.command.verb import ForceOption, console, needs, steps
from edgewise.runtime.command import cli as device
from edgewise.runtime.command.cli import before_verb, main_of

app = typer.Typer(
    callback=before_verb,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From PyTorch training definitions to FP16/INT8 engines, with parity proven at every step.",
)
for verbs in (device, bundles, checkpoints, inspecting):
    app.registered_commands.extend(
        # The workstation's verb stands for the device's of the same name.
        each
        for each in verbs.app.registered_commands
        if verbs is not device or each.callback is not device.inspect
    )


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything.")] = Path(
        "demo-output"
    ),
    model: Annotated[
        list[str] | None, typer.Option(help="Which to show; may be repeated, all three if left out.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """The whole way once: scenes, export, calibration, engines, self test, overlays, parity report."""
    with needs("demo"):
        from edgewise.exporter.demo.demo import MODELS, run_demo, summary

        with steps() as step:
            made = run_demo(output, models=model or MODELS, replace=force, progress=step, console=console)
    console.print(summary(made))


main = main_of(app)
