"""The bytes that TensorRT's kernels move, modelled for every model of the registry, as a table.

    python benchmarks/traffic.py [--model NAME]... [--graphs FOLDER]

Each model is exported with seeded weights in its published size and typed in FP16 and INT8 as a calibration
types it whose ranges fit float16 everywhere and whose precision search keeps nothing: which nodes move how
many bytes depends on no number. The rows go into the table of `docs/quantisation.md`; those of models that
are not named stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import onnx
import torch
import typer
from zoo import vocabulary_of

from edgewise.calibration.graph import float_activations, index_graph
from edgewise.calibration.placement import place
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.table import CalibrationTable, TensorRange
from edgewise.exporter.bundle.goldens import drawn_frame
from edgewise.exporter.passes.exact_halves import exact_halves
from edgewise.exporter.passes.fp16 import choose_fp16, narrow_nodes
from edgewise.exporter.passes.narrow_codes import narrow_codes
from edgewise.exporter.passes.raise_opset import raise_opset
from edgewise.exporter.targets.lowering import passes_for
from edgewise.exporter.targets.profiles import releases_of
from edgewise.exporter.traffic.layers import Comparison, compare
from edgewise.exporter.way.export import canonical_graph
from edgewise.models import registry
from edgewise.runtime.contract.manifest import CalibrationMethod, Graph, Precision, Provenance, Target
from edgewise.runtime.system.atomic import write_text

if TYPE_CHECKING:
    from edgewise.models.families.family import ModelEntry

PAGE = Path(__file__).parents[1] / "docs" / "quantisation.md"
BEGIN, END = "<!-- traffic: begin -->", "<!-- traffic: end -->"
HEADER = (
    "| model | input | FP32 | FP16 | INT8 | INT8 / FP16 | kernels | INT8 moves more in |",
    "|---|---|---|---|---|---|---|---|",
)


def main(
    model: Annotated[list[str] | None, typer.Option(help="May be repeated; all if left out.")] = None,
    graphs: Annotated[
        Path | None, typer.Option(help="Folder of float graphs that are there already, and of new ones.")
    ] = None,
) -> None:
    """Write the table's rows of some models, or of all."""
    for name in model or registry.names():
        entry = registry.find(name)
        graph = entry.manifest(vocabulary_of(entry.vocabulary_size), Provenance(definition=name)).graphs[
            "main"
        ]
        file = None if graphs is None else graphs / f"{name}.onnx"
        if file is not None and file.exists():
            fp32 = onnx.load(str(file))
        else:
            fp32 = seeded_graph(entry, graph)
            if file is not None:
                onnx.save(fp32, str(file))
        line = row(name, graph, compare(typed_graphs(fp32, graph)))
        write_text(PAGE, with_row(PAGE.read_text(encoding="utf-8"), name, line))
        print(line, flush=True)


def seeded_graph(entry: ModelEntry, graph: Graph) -> onnx.ModelProto:
    """The FP32 graph of a registry entry as it is before training."""
    torch.manual_seed(0)
    height, width = graph.inputs[0].shape[1:3]
    sample = {graph.inputs[0].name: drawn_frame((height, width), np.random.default_rng(0))[None]}
    return canonical_graph(entry.deploy(entry.build()), graph, [sample]).fp32


def typed_graphs(fp32: onnx.ModelProto, graph: Graph) -> Mapping[Precision, onnx.ModelProto]:
    """What the newest TensorRT reads in every precision."""
    held = TensorRange(minimum=-1.0, maximum=1.0, amax=1.0, method=CalibrationMethod.MINMAX)
    table = CalibrationTable(
        method=CalibrationMethod.MINMAX,
        sample_count=1,
        seed=0,
        samples_sha256="0" * 64,
        preprocess_sha256="0" * 64,
        tensors=dict.fromkeys(float_activations(index_graph(fp32)), held),
    )
    ranges = {name: (each.minimum, each.maximum) for name, each in table.tensors.items()}
    islands = choose_fp16(fp32, ranges, probes=[spec.name for spec in graph.probes]).narrow
    codes = quantise_s8(raise_opset().apply(_copy(fp32)), table, place(fp32), half_scales=True)
    typed = {
        Precision.FP32: _copy(fp32),
        Precision.FP16: exact_halves().apply(narrow_nodes(_copy(fp32), islands)),
        Precision.INT8: exact_halves().apply(narrow_codes(codes, islands)),
    }
    for pass_ in passes_for(releases_of(Target.TENSORRT)[-1]):
        typed = {precision: pass_.apply(each) for precision, each in typed.items()}
    return typed


def row(name: str, graph: Graph, found: Comparison) -> str:
    """One model's line: megabytes of activations + weights."""
    totals = [found.total(precision) for precision in Precision]
    height, width = graph.inputs[0].shape[1:3]
    half = found.total(Precision.FP16).total
    more = [f"{group} (+{n / half:.1%})" for group, n in found.heavier().items() if n >= 0.005 * half]
    cells = [
        name,
        f"{height}x{width}",
        *(f"{each.activations / 1e6:.1f} + {each.weights / 1e6:.1f}" for each in totals),
        f"{found.ratio() or 0.0:.2f}",
        " / ".join(str(each.kernels) for each in totals),
        ", ".join(more) or "no layers",
    ]
    return f"| {' | '.join(cells)} |"


def with_row(page: str, name: str, line: str) -> str:
    """The page with one row exchanged, in the order of the registry."""
    before, _, rest = page.partition(BEGIN)
    inside, _, after = rest.partition(END)
    rows = {text.split("|")[1].strip(): text for text in inside.strip().splitlines()[len(HEADER) :]}
    rows[name] = line
    ordered = [rows[known] for known in registry.names() if known in rows]
    return "\n".join((before + BEGIN, *HEADER, *ordered, END + after))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


if __name__ == "__main__":
    typer.run(main)
