"""The workstation's `inspect`: the device's, and the traffic of a bundle's graphs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from edgewise.exporter.command.verb import console, needs, say
from edgewise.runtime.command import cli as device
from edgewise.runtime.system.errors import EdgewiseError

if TYPE_CHECKING:
    from edgewise.exporter.traffic.layers import Comparison, Traffic

app = typer.Typer()


@app.command()
def inspect(
    bundle: device.BundleArgument,
    traffic: Annotated[
        bool,
        typer.Option(
            "--traffic",
            help="Model the bytes that TensorRT's kernels move, by layers and precision, instead.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the traffic as JSON.")] = False,
) -> None:
    """Print what a bundle holds and check the hash of every file; or model its memory traffic."""
    if not traffic:
        if as_json:
            raise EdgewiseError("--json prints the traffic", hint="add --traffic")
        device.inspect(bundle)
        return
    with needs("inspect"):
        from edgewise.exporter.traffic.layers import compare_bundle
        from edgewise.runtime.contract.bundle import Bundle

        found = compare_bundle(Bundle.open(bundle))
    if as_json:
        typer.echo(json.dumps({name: _plain(each) for name, each in found.items()}, indent=2))
        return
    for name, each in found.items():
        console.print(_table(f"{bundle.name}, graph {name}: MB of activations + weights", each))
        say(_verdict(each))


def _table(title: str, found: Comparison) -> Table:
    """One line a group of layers: activations + weights in every precision."""
    precisions = [Column(precision.value, justify="right") for precision in found.layers]
    table = Table(
        Column("layers", overflow="fold"),
        *precisions,
        Column("int8/fp16", justify="right"),
        title=title,
        title_justify="left",
    )
    for group in found.groups:
        cells = (_cell(found.of(precision, group)) for precision in found.layers)
        table.add_row(group, *cells, _share(found.ratio(group)))
    table.add_section()
    totals = [found.total(precision) for precision in found.layers]
    table.add_row("all", *map(_cell, totals))
    table.add_row("sum", *(_megabytes(total.total) for total in totals), _share(found.ratio()))
    table.add_row("kernels", *(str(total.kernels) for total in totals))
    return table


def _verdict(found: Comparison) -> str:
    least = min(found.layers, key=lambda precision: found.total(precision).total)
    words = found.in_words()
    return f"{least.value} moves least" + (f"; {words}" if words else "")


def _cell(traffic: Traffic) -> str:
    return f"{_megabytes(traffic.activations)} + {_megabytes(traffic.weights)}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _share(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _plain(found: Comparison) -> dict[str, Any]:
    def numbers(traffic: Traffic) -> dict[str, int]:
        return {
            "kernels": traffic.kernels, "activations": traffic.activations, "weights": traffic.weights
        }  # fmt: skip

    return {
        "groups": [
            {"group": group, **{p.value: numbers(found.of(p, group)) for p in found.layers}}
            for group in found.groups
        ],
        "total": {p.value: numbers(found.total(p)) for p in found.layers},
        "int8_to_fp16": found.ratio(),
    }
