"""What the engines of bundles move: kernels and activation bytes, from TensorRT-RTX's own list of layers.

    python benchmarks/engine_traffic.py BUNDLE... [--precision fp16]...

It compiles without a GPU. The bytes are those of every kernel's inputs and outputs, weights apart; what stays
in caches between two kernels counts in full.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from edgewise.exporter.engines.compile import CompileJob, compile_graph
from edgewise.exporter.engines.realised import EngineLayer
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.engines.tensorrt_api import import_tensorrt

SHOWN = 12
"""Rows of the largest groups."""


def layers_of(bundle: Bundle, graph: str, precision: Precision) -> tuple[EngineLayer, ...]:
    """Compile one graph of a bundle for one GPU."""
    trt = import_tensorrt(Target.TENSORRT_RTX, verb="engine_traffic")
    job = CompileJob(
        model=bundle.graph_bytes(graph, Target.TENSORRT_RTX, precision),
        where=str(bundle.path),
        graph=bundle.graph(graph),
        network_flags=("STRONGLY_TYPED",),
        compute_capabilities=("sm86",),
    )
    return compile_graph(trt, job).layers


def group_of(layer: EngineLayer) -> str:
    """The module of its first ONNX node, two names deep; without one, the kernel's operators."""
    nodes = re.findall(r"\[ONNX Layer: ([^\]]*)\]", layer.metadata)
    scoped = [node for node in nodes if "/" in node]
    if scoped:
        return "/".join(scoped[0].split("/")[:2])
    return re.sub(r"_myl\d+_\d+$", "", layer.name)[:40] or "none"


def main(
    bundles: list[Path],
    precision: Annotated[list[Precision] | None, typer.Option(help="All that the bundle holds.")] = None,
) -> None:
    """Print kernels and megabytes of every graph, and of its largest groups."""
    console = Console()
    for path in bundles:
        bundle = Bundle.open(path)
        for graph in bundle.manifest.graphs:
            for entry in bundle.manifest.precisions:
                if precision and entry.precision not in precision:
                    continue
                layers = layers_of(bundle, graph, entry.precision)
                moved = sum(layer.moved for layer in layers)
                table = Table("kernels", "MB", "group", title=f"{path.name} {graph} {entry.precision.value}")
                table.add_row(str(len(layers)), f"{moved / 1e6:.1f}", "all")
                kernels, traffic = Counter[str](), Counter[str]()
                for layer in layers:
                    kernels[group_of(layer)] += 1
                    traffic[group_of(layer)] += layer.moved
                for name, size in traffic.most_common(SHOWN):
                    table.add_row(str(kernels[name]), f"{size / 1e6:.1f}", name)
                console.print(table)


if __name__ == "__main__":
    typer.run(main)
