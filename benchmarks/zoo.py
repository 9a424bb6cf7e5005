"""Every model of the registry through the composition that ships, and what came of it as a table.

    python benchmarks/zoo.py [--model NAME]...       # `make zoo`, `make zoo MODELS="NAME NAME"`

Each model has a process of its own: it writes a checkpoint with seeded weights (or takes the one that
ships), exports it with FP16 and INT8 from a few drawn scenes, reruns a golden against torch, and compiles it
for TensorRT-RTX in every precision. `docs/zoo.json` gets a row as soon as a model is done, and the table in
`docs/zoo.md` is written from it. A model that fails has a row that says why, and the exit status is 1.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import onnx
import torch
import typer
from rich.console import Console
from rich.status import Status

from edgewise.exporter.bundle.budgets import FP32
from edgewise.exporter.bundle.tool_versions import tool_versions
from edgewise.exporter.engines.build import BuildOptions, EngineRecord, build_engine, with_realised
from edgewise.exporter.graph.numerics import run_graph
from edgewise.exporter.precision.calibration_images import CalibrationRequest
from edgewise.exporter.way.export import ExportOptions, export_checkpoint
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import CheckpointMeta, load_model, save_checkpoint
from edgewise.models.checkpoints.evaluation import evaluate_module
from edgewise.models.data.face_labels import FACE
from edgewise.models.data.vocabulary import Vocabulary, VocabularySize
from edgewise.models.measuring.tasks import task_of
from edgewise.models.measuring.torch_runner import TorchRunner
from edgewise.models.scenes.dataset import write_dataset
from edgewise.models.scenes.face_dataset import write_face_dataset
from edgewise.models.tasks.task import Measured
from edgewise.runtime.command.selftest import golden_boxes, selftest
from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.check import image_input
from edgewise.runtime.contract.manifest import (
    Budget,
    CalibrationMethod,
    ClassKind,
    ClassLabel,
    DType,
    KeypointLayout,
    Precision,
    Target,
)
from edgewise.runtime.decoding.decode import looks_of
from edgewise.runtime.frames.images import decode_image
from edgewise.runtime.system.atomic import sha256_of, write_text
from edgewise.runtime.system.publishing import writing

ROOT = Path(__file__).parents[1]
ROWS, PAGE = ROOT / "docs" / "zoo.json", ROOT / "docs" / "zoo.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

COMPUTE_CAPABILITY = "sm86"
TARGETS = (Target.ONNXRUNTIME, Target.TENSORRT_RTX)
PRECISIONS = tuple(precision.value.upper() for precision in Precision)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")

SCENES, SERIES, SIDES = 60, 73, (240, 320)
"""Every third scene at least has a person for a model of crops."""

UNSEEN, MEASURED_ON, REPEATED_ON, SIDE = 9001, 200, 24, 256
"""A series of scenes that no training uses. Models that ship are measured on many; tests repeat some."""

GRAPH_ONLY = (
    FP32,
    *(
        Budget(
            precision=precision,
            tensor_relative_error=1e9,
            matched_fraction=0.0,
            similarity=0.0,
            score_difference=1.0,
            metric_drop=1.0,
        )
        for precision in (Precision.FP16, Precision.INT8)
    ),
)
"""What seeded weights find are near ties, which any rounding decides anew: only FP32 is held to anything."""

Progress = Callable[[str], None]


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One precision: seconds of compiling, size, engine layers by type, weighted nodes kept wider."""

    seconds: float
    megabytes: float
    layers: dict[str, int]
    kept: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one model.

    `relative_error` is the largest of a float output or probe of the canonical graph against torch,
    `differing` the largest share of values of an integer output that differ; `decoded` is the least mean
    similarity of what the FP32 file finds in the goldens to what torch finds. A model that ships has the
    SHA-256 of its checkpoint, and its metric by number of unseen scenes.
    """

    model: str
    task: str
    weights: str
    tools: dict[str, str]
    failure: str = ""
    sha256: str = ""
    metric: str = ""
    measured: dict[int, float] = {}
    nodes_exported: int = 0
    nodes_simplified: int = 0
    relative_error: float = 0.0
    differing: float = 0.0
    decoded: float = 0.0
    weighted: int = 0
    engines: dict[str, EngineRow] = {}
    peak_gigabytes: float = 0.0
    seconds: float = 0.0


# ---------------------------------------------------------------- one model


def prove(name: str, folder: Path, progress: Progress = lambda text: None) -> tuple[Row, Bundle]:
    """Take one model the whole way.

    Args:
        folder: Gets the checkpoint, scenes, bundle and engines.

    Raises:
        EdgewiseError: A step fails.
    """
    begun = time.perf_counter()
    progress("writing a checkpoint and scenes")
    shipped = resources.files("edgewise.models") / "pretrained" / f"{name}.safetensors"
    if shipped.is_file():
        checkpoint, budgets = Path(str(shipped)), ()
        scenes = _scenes(load_model(checkpoint).meta.vocabulary, folder / "scenes", SCENES, SERIES, SIDES)
        request = CalibrationRequest(images=scenes, count=16)
    else:
        checkpoint, budgets = seeded_checkpoint(name, folder / "seeded.safetensors"), GRAPH_ONLY
        scenes = write_dataset(folder / "scenes", SCENES, SERIES, SIDES)
        request = CalibrationRequest(images=scenes, count=2, held_out=1, method=CalibrationMethod.MINMAX)
    options = ExportOptions(
        targets=TARGETS, golden_count=2, calibration=request, budgets=budgets, progress=progress
    )
    bundle = export_checkpoint(checkpoint, folder / f"{name}.bundle", options)
    progress("comparing a golden with torch")
    error, differing = against_torch(bundle, checkpoint)
    report = selftest(bundle, Target.ONNXRUNTIME, Precision.FP32)
    decoded = min(check.value or 0.0 for check in report.checks if check.figure == "mean similarity")
    failure = "" if report.passed else f"self test: {report.failures[0]}"
    measured = (
        [measure(checkpoint, folder / f"unseen-{count}", count) for count in (REPEATED_ON, MEASURED_ON)]
        if shipped.is_file()
        else []
    )
    engines = {}
    for precision in Precision:
        progress(f"compiling in {precision.value}")
        build = BuildOptions(compute_capabilities=(COMPUTE_CAPABILITY,), output=folder / "engines")
        record = build_engine(bundle, Target.TENSORRT_RTX, precision, build)
        bundle = with_realised(bundle, record)
        engines[precision.value] = engine_row(bundle, record)
    steps = {step.step: step.detail for step in bundle.manifest.provenance.steps}
    before, after = (int(word) for word in steps["simplify"].split() if word.isdigit())
    row = Row(
        model=name,
        task=bundle.manifest.task,
        weights="shipped" if shipped.is_file() else "seeded",
        tools=versions(),
        failure=failure,
        sha256=sha256_of(checkpoint) if shipped.is_file() else "",
        metric=measured[0].name if measured else "",
        measured={each.images: round(each.value, 4) for each in measured},
        nodes_exported=before,
        nodes_simplified=after,
        relative_error=error,
        differing=differing,
        decoded=decoded,
        weighted=weighted_nodes(bundle),
        engines=engines,
        peak_gigabytes=peak_gigabytes(),
        seconds=round(time.perf_counter() - begun, 1),
    )
    return row, bundle


def seeded_checkpoint(name: str, path: Path) -> Path:
    """A checkpoint of a registry entry as it is before training."""
    torch.manual_seed(0)
    entry = registry.find(name)
    meta = CheckpointMeta.of(entry, vocabulary_of(entry.vocabulary_size), origin="seeded")
    save_checkpoint(path, entry.build(), meta)
    return path


def vocabulary_of(size: VocabularySize) -> Vocabulary:
    """Numbered things, stuff and keypoints; one thing where there are none, as a figure needs."""
    things = [ClassLabel(id=number, name=f"thing {number}") for number in range(1, max(1, size.things) + 1)]
    stuff = [
        ClassLabel(id=1000 + number, name=f"stuff {number}", kind=ClassKind.STUFF)
        for number in range(size.stuff)
    ]
    points = tuple(f"point {number}" for number in range(size.keypoints))
    layout = KeypointLayout(names=points, sigmas=(0.05,) * len(points)) if points else None
    return Vocabulary((*things, *stuff), layout)


def against_torch(bundle: Bundle, checkpoint: Path) -> tuple[float, float]:
    """The canonical graph against the training definition on the first golden, probes included.

    Returns:
        Largest relative error of a float tensor, and largest share of an integer one's values that differ.
    """
    loaded = load_model(checkpoint)
    module, manifest = loaded.entry.deploy(loaded.module), bundle.manifest
    graph, golden = bundle.graph("main"), manifest.goldens[0].frames[0]
    assert graph.canonical is not None
    frame = decode_image(bundle.read(golden.image), where=golden.image)
    look = looks_of(manifest, frame, golden_boxes(golden)).looks[0]
    sample = {image_input(manifest, "main"): look.tensor}
    wanted = TorchRunner(module, graph).run(sample)
    found = run_graph(onnx.load_model_from_string(bundle.model(graph.canonical)), [sample])[0]
    floats, others = [0.0], [0.0]
    for spec in (*graph.outputs, *graph.probes):
        if spec.dtype is DType.FLOAT32:
            floats.append(difference(found[spec.name], wanted[spec.name]).relative)
        else:
            others.append(float(np.mean(found[spec.name] != wanted[spec.name])))
    return max(floats), max(others)


def measure(checkpoint: Path, folder: Path, count: int) -> Measured:
    """The task's metric of a shipped checkpoint on the first scenes of a series that it never saw."""
    loaded = load_model(checkpoint)
    scenes = _scenes(loaded.meta.vocabulary, folder, count, UNSEEN, SIDE)
    return evaluate_module(loaded, task_of(loaded.entry.task).dataset.open(scenes))


def _scenes(
    vocabulary: Vocabulary, folder: Path, count: int, series: int, size: int | tuple[int, int]
) -> Path:
    """Scenes of what a trained model names: faces, or things and figures."""
    faces = all(label.name == FACE.name for label in vocabulary.classes)
    return (write_face_dataset if faces else write_dataset)(folder, count, series, size)


def engine_row(bundle: Bundle, record: EngineRecord) -> EngineRow:
    kept = {entry.precision: entry.kept for entry in bundle.manifest.precisions}[record.key.precision]
    return EngineRow(
        seconds=round(record.build_seconds, 1),
        megabytes=round(record.size / 1e6, 1),
        layers=record.realised.layers,
        kept=len(kept),
    )


def weighted_nodes(bundle: Bundle) -> int:
    """Nodes with weights in the file that is compiled."""
    data = bundle.graph_bytes("main", Target.TENSORRT_RTX, Precision.FP32)
    return sum(node.op_type in WEIGHTED for node in onnx.load_model_from_string(data).graph.node)


def versions() -> dict[str, str]:
    """Of everything that a row depends on."""
    return {**tool_versions(), "tensorrt-rtx": metadata.version("tensorrt-rtx-cu13-libs")}


def peak_gigabytes() -> float:
    """The most memory that this process ever had."""
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)


# ---------------------------------------------------------------- each in a process of its own


@dataclass(frozen=True)
class Step:
    """What a model's process says while it works."""

    text: str


@dataclass(frozen=True)
class Failure:
    """Why it gave up."""

    text: str


def prove_apart(name: str, progress: Progress) -> Row:
    """`prove` in a process of its own, whose peak memory is this model's; whatever happens becomes a row."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(name, theirs))
    process.start()
    theirs.close()
    try:
        while isinstance(said := ours.recv(), Step):
            progress(said.text)
    except EOFError:
        process.join()
        said = Failure(f"its process ended with exit code {process.exitcode}")
    finally:
        process.join()
    if isinstance(said, Failure):
        task = registry.find(name).task
        return Row(model=name, task=task, weights="", tools=versions(), failure=said.text)
    return said


def _work(name: str, pipe: Connection) -> None:
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        try:
            said = prove(name, Path(folder), lambda text: pipe.send(Step(text)))[0]
        except Exception as error:  # one model that fails leaves the others their turn, and has a row
            said = Failure(f"{type(error).__name__}: {error}".splitlines()[0])
    pipe.send(said)


# ---------------------------------------------------------------- rows and page


def read_rows(path: Path = ROWS) -> dict[str, Row]:
    """Model -> row, of those that the registry knows, in its order."""
    stored = msgspec.json.decode(path.read_bytes(), type=list[Row]) if path.is_file() else []
    return ordered({row.model: row for row in stored})


def ordered(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {name: rows[name] for name in registry.names() if name in rows}


def write_rows(rows: Mapping[str, Row], path: Path = ROWS, page: Path = PAGE) -> None:
    """The JSON, and the page's table from it."""
    plain = [msgspec.to_builtins(row) for row in ordered(rows).values()]
    write_text(path, json.dumps(plain, indent=1) + "\n")
    write_text(page, with_table(page.read_text(encoding="utf-8"), list(ordered(rows).values())))


def with_table(page: str, rows: Sequence[Row]) -> str:
    """The page with the table between its two markers exchanged."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}{END}{rest.split(END)[1]}"


def table(rows: Sequence[Row]) -> str:
    """Markdown; `docs/zoo.md` says what the columns mean."""
    head = (
        "model",
        "weights",
        "figure",
        "nodes",
        "error",
        "decoded",
        "weighted",
        *PRECISIONS,
        "memory",
        "time",
    )
    lines = [head, ("---",) * len(head), *(_cells(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    if not row.engines:
        return (row.model, row.weights, f"**failed**: {row.failure}", *[""] * 9)
    decoded = f"{row.decoded:.4f}" if not row.failure else f"**{row.failure}**"
    return (
        row.model,
        row.weights,
        f"{row.metric} {row.measured[MEASURED_ON]:.3f}" if row.measured else "",
        f"{row.nodes_exported} → {row.nodes_simplified}",
        f"{row.relative_error:.0e}",
        decoded,
        str(row.weighted),
        *(_engine_cell(row.engines[precision.value]) for precision in Precision),
        f"{row.peak_gigabytes:.1f} GB",
        f"{row.seconds:.0f} s",
    )


def _engine_cell(engine: EngineRow) -> str:
    layers = ", ".join(f"{number} {kind}" for kind, number in engine.layers.items() if kind != "integer")
    kept = f"; {engine.kept} kept" if engine.kept else ""
    return f"{engine.seconds:.0f} s, {engine.megabytes:.0f} MB: {layers}{kept}"


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="May be repeated; the whole registry if left out.")
    ] = None,
) -> None:
    """Rows of docs/zoo.json, and the table of docs/zoo.md."""
    console = Console()
    names = [registry.find(name).name for name in model] if model else list(registry.names())
    with writing(ROWS), Status("", console=console) as status:
        rows = read_rows()
        for number, name in enumerate(names, start=1):
            heading = f"{number} of {len(names)}, {name}"
            row = prove_apart(name, lambda text, heading=heading: status.update(f"{heading}: {text}"))
            rows[name] = row
            write_rows(rows)
            verdict = f"[red]{row.failure}" if row.failure else f"{row.seconds:.0f} s"
            console.print(f"{heading}: {verdict}")
    raise typer.Exit(int(any(rows[name].failure for name in names)))


if __name__ == "__main__":
    typer.run(main)
