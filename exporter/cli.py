"""The command `edgewise`: the device's verbs, and those of the workstation.

Nothing heavy is imported before a verb needs it; a verb whose packages are missing says which extra to
install.
"""

from __future__ import annotations

import enum
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from edgewise.runtime.command.cli import app as device_app
from edgewise.runtime.command.cli import before_verb, main_of, settings_of
from edgewise.runtime.contract.manifest import CalibrationMethod, Precision, Target
from edgewise.runtime.system.errors import ExportError, MissingExtraError

if TYPE_CHECKING:
    from edgewise.exporter.precision.calibration_images import CalibrationRequest
    from edgewise.runtime.contract.bundle import Bundle

EXTRAS = {
    **dict.fromkeys(
        ("torch", "onnx", "onnxscript", "onnxsim", "safetensors", "faster_coco_eval", "jinja2", "matplotlib"),
        "export",
    ),
    "tensorrt": "tensorrt",
    "pycuda": "tensorrt",
    "tensorrt_rtx_bindings": "rtx",
}
"""Top-level module -> the extra that brings it."""

app = typer.Typer(
    callback=before_verb,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From PyTorch training definitions to FP16/INT8 engines, with parity proven at every step.",
)
app.registered_commands.extend(device_app.registered_commands)
console = Console()

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Folder that `edgewise export` wrote.")
]
CountOption = Annotated[int, typer.Option(min=1, help="Number of calibration images.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Chooses the calibration images.")]
MethodOption = Annotated[CalibrationMethod, typer.Option(help="How ranges are chosen.")]
ValidationOption = Annotated[
    Path | None,
    typer.Option(
        help="COCO dataset to hold INT8 to its metric's budget; without it, the decoded results on held-out "
        "calibration images are held to FP32's."
    ),
]
WidthOption = Annotated[
    list[Precision] | None, typer.Option("--precision", help="fp16 or int8; both if left out.")
]
ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the model's config, e.g. input_size=800,1344; may be repeated. "
        "`edgewise models NAME` lists them.",
    ),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PRECISION.LIMIT=VALUE",
        help="What a precision may differ by, e.g. int8.matched=0.9; limits are error, cosine, matched, "
        "similarity, score and metric. May be repeated.",
    ),
]
ForceOption = Annotated[bool, typer.Option(help="Replace what is there.")]


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors of `edgewise train`.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder.")],
    calibration: Annotated[
        Path | None,
        typer.Option(help="Folder of images or COCO json; with it the bundle gets FP16 and INT8 too."),
    ] = None,
    count: CountOption = 64,
    seed: SeedOption = 0,
    method: MethodOption = CalibrationMethod.ENTROPY,
    validation: ValidationOption = None,
    precision: WidthOption = None,
    target: Annotated[
        list[Target] | None, typer.Option(help="May be repeated; every target if left out.")
    ] = None,
    golden: Annotated[
        list[Path] | None, typer.Option(help="A picture for the self test; may be repeated.")
    ] = None,
    device_only: Annotated[bool, typer.Option(help="Leave out what only a workstation reads.")] = False,
    setting: ConfigOption = None,
    budget: BudgetOption = None,
    name: Annotated[
        str, typer.Option(help="The model's name in the manifest; the registry's if left out.")
    ] = "",
    licence: Annotated[str, typer.Option(help="Terms of the weights; the checkpoint's if left out.")] = "",
    force: ForceOption = False,
) -> None:
    """Export a checkpoint as a bundle: ONNX, simplified, checked, and with --calibration in FP16 and INT8.

    The bundle's own self test runs at the end.
    """
    with _needs("export"):
        from edgewise.exporter.bundle.budgets import DEFAULT_BUDGETS, changed_budgets
        from edgewise.exporter.way.export import ExportOptions, export_checkpoint

        request = None
        if calibration is not None:
            request = _calibration_request(calibration, count, seed, method, validation, precision)
        elif validation is not None:
            raise ExportError(
                "--validation judges INT8: it needs --calibration", hint="give --calibration IMAGES"
            )
        with _steps() as step:
            options = ExportOptions(
                replace=force,
                device_only=device_only,
                targets=tuple(dict.fromkeys(target)) if target else tuple(Target),
                images=tuple(golden or ()),
                calibration=request,
                budgets=changed_budgets(DEFAULT_BUDGETS, budget or ()),
                name=name,
                licence=licence,
                progress=step,
            )
            bundle = export_checkpoint(checkpoint, output, options, settings=settings_of(setting))
    _say_written(bundle, precision)
    _prove(bundle)


@app.command()
def calibrate(
    bundle: BundleArgument,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images or COCO json.")],
    count: CountOption = 64,
    seed: SeedOption = 0,
    method: MethodOption = CalibrationMethod.ENTROPY,
    validation: ValidationOption = None,
    precision: WidthOption = None,
    budget: BudgetOption = None,
) -> None:
    """Calibrate a bundle and add its FP16 and INT8 files, in place of those it has."""
    with _needs("calibrate"):
        from dataclasses import replace

        from edgewise.exporter.bundle.budgets import changed_budgets
        from edgewise.exporter.precision.quantise import calibrate_bundle
        from edgewise.runtime.contract.bundle import Bundle

        opened = Bundle.open(bundle)
        request = _calibration_request(images, count, seed, method, validation, precision)
        if budget:
            request = replace(request, budgets=changed_budgets(opened.manifest.budgets, budget))
        with _steps() as step:
            done = calibrate_bundle(opened, request, progress=step)
    _say_written(done, precision)


@app.command()
def build(
    bundle: BundleArgument,
    target: Annotated[Target, typer.Option(help="tensorrt or tensorrt-rtx.")],
    precision: Annotated[Precision, typer.Option(help="One that the bundle holds for the target.")],
    compute_capability: Annotated[
        str,
        typer.Option(help="GPUs to build for, e.g. sm86,sm89 (TensorRT-RTX); this machine's if left out."),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the engine; the user's cache if left out."),
    ] = None,
    graph: Annotated[
        list[str] | None, typer.Option(help="One of the bundle's graphs; may be repeated; all if left out.")
    ] = None,
    workspace: Annotated[int | None, typer.Option(min=1, help="Builder's scratch memory in MiB.")] = None,
    optimisation_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="0 builds quickly, 5 searches longest; 3 if left out.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Build even where the engine is in the cache.")] = False,
) -> None:
    """Build the engine of every graph, and check that it computes in the precision that was asked for."""
    with _needs("build"):
        from edgewise.exporter.engines.build import BuildOptions, build_engine, with_realised
        from edgewise.runtime.contract.bundle import Bundle

        opened = Bundle.open(bundle)
        capabilities = tuple(name.strip() for name in compute_capability.split(",") if name.strip())
        for name in graph or opened.manifest.graphs:
            with _steps(lines=False) as step:
                options = BuildOptions(
                    graph=name,
                    compute_capabilities=capabilities,
                    output=output,
                    workspace_mib=workspace,
                    optimisation_level=optimisation_level,
                    force=force,
                    progress=step,
                )
                record = build_engine(opened, target, precision, options)
                opened = with_realised(opened, record, step)
            _say(
                f"{name}, {record.realised.tool} for {record.realised.device}: "
                f"{record.size / 1e6:.1f} MB, {record.realised.counts()}"
            )


@app.command()
def parity(
    bundle: BundleArgument,
    dataset: Annotated[Path, typer.Option(help="Folder of scenes, or a COCO json of the task.")],
    images: Annotated[Path | None, typer.Option(help="Image folder, if not beside the json.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many images.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the report; BUNDLE.parity if left out.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where torch's numbers come from, if not from the bundle.")
    ] = None,
    without_torch: Annotated[
        bool, typer.Option(help="Compare with the canonical ONNX model instead.")
    ] = False,
    backend: Annotated[
        list[Target] | None, typer.Option(help="May be repeated; every target that runs here if left out.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one operator.")] = None,
) -> None:
    """Compare every stage with the training definition; exit with 1 where a budget is broken."""
    with _needs("parity"):
        from edgewise.exporter.parity import ParityRequest
        from edgewise.exporter.parity import parity as run_parity

        request = ParityRequest(
            bundle=bundle,
            dataset=dataset,
            images=images,
            limit=limit,
            output=output,
            checkpoint=checkpoint,
            without_torch=without_torch,
            backends=tuple(backend) if backend else None,
            threads=threads,
        )
        run_parity(request, console)


@app.command()
def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name in the registry, e.g. yolact-tiny.")],
    data: Annotated[
        Path,
        typer.Option(
            help="COCO json of the model's task, or a folder with instances.json, panoptic.json or "
            "keypoints.json, and images/."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors checkpoint.")],
    images: Annotated[Path | None, typer.Option(help="Image folder, if not beside the json.")] = None,
    initial: Annotated[
        Path | None, typer.Option(help="Checkpoint whose tensors begin the training where they fit.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Dataset to measure mask AP, PQ or PCK@0.1 on.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps; the recipe's if left out.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images (or people) a step; the recipe's if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 500,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; CUDA where there is one if left out.")
    ] = None,
    restart: Annotated[bool, typer.Option(help="Forget an interrupted run.")] = False,
) -> None:
    """Train a model; running the same command again after a kill goes on where it stopped."""
    with _needs("train"):
        from dataclasses import replace

        from edgewise.models import registry
        from edgewise.models.training.loop import TrainingRequest
        from edgewise.models.training.loop import train as run_training

        changes = {name: value for name, value in (("steps", steps), ("batch", batch)) if value is not None}
        entry = registry.find(model)
        request = TrainingRequest(
            entry=entry,
            data=data,
            out=output,
            images=images,
            recipe=replace(entry.recipe, **changes),
            seed=seed,
            initial=initial,
            evaluation=evaluation,
            save_every=save_every,
            threads=threads,
            device=device,
            restart=restart,
            command=shlex.join(["edgewise", *sys.argv[1:]]),
            progress=True,
        )
        path = run_training(request)
    _say(f"wrote {path}")


@app.command()
def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors of `edgewise train`.")
    ],
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Folder of scenes, or a COCO json of the model's task.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on the first so many images.")] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder, if not beside the json.")] = None,
) -> None:
    """Measure a training definition by its task's metric: mask AP, PQ or PCK@0.1."""
    with _needs("evaluate"):
        from edgewise.models.checkpoints.checkpoint import load_model
        from edgewise.models.checkpoints.evaluation import evaluate_module
        from edgewise.models.measuring.tasks import task_of

        loaded = load_model(checkpoint)
        annotated = task_of(loaded.entry.task).dataset.open(dataset, images)
        measured = evaluate_module(loaded, annotated, limit=limit, progress=True)
    table = Table("", f"on {measured.images} images")
    table.add_row(measured.name, f"{measured.value:.4f}", end_section=True)
    for name, value in measured.parts.items():
        table.add_row(name, "-" if math.isnan(value) else f"{value:.4f}")
    console.print(table)
    if measured.unsettled:
        _say(f"{measured.unsettled} images needed more suppression rounds than the model has")


@app.command()
def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A published .pth or .safetensors.")],
    model: Annotated[str, typer.Option(help="Name in the registry, e.g. yolact-r50.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors checkpoint to write.")],
    weights: Annotated[
        str | None, typer.Option(help="Which of several sets of weights in the file, e.g. ema or model.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="What weights of one's own name: bolt,nut,pin in the order of the outputs, or the COCO "
            "dataset that they were trained on."
        ),
    ] = None,
    setting: ConfigOption = None,
    force: ForceOption = False,
) -> None:
    """Bring a published checkpoint in; keys that do not fit are listed, nothing loads in part."""
    with _needs("import-checkpoint"):
        from edgewise.models import registry
        from edgewise.models.checkpoints.upstream import convert_checkpoint, named_classes
        from edgewise.runtime.system.ownership import refuse_existing_file
        from edgewise.runtime.system.publishing import writing

        entry = registry.find(model).with_settings(settings_of(setting))
        vocabulary = None
        if classes is not None:
            vocabulary = named_classes(classes, entry)
            entry = entry.fit(vocabulary)
        with writing(output):
            refuse_existing_file(output, replace=force)
            report = convert_checkpoint(file, entry, output, vocabulary, weights)
    source = f" from {report.weights!r}" if report.weights else ""
    _say(f"{report.layout}: {report.tensors} tensors{source}, {report.parameters / 1e6:.2f} M parameters")
    for name in report.dropped:
        _say(f"left behind: {name}")
    _say(f"wrote {output}")


@app.command()
def models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show what of this model `--set` takes.")
    ] = None,
) -> None:
    """List the models of the registry, or the fields of one model's config."""
    with _needs("models"):
        from edgewise.models import registry

        if name is None:
            table = Table("name", "result", "input", "terms of published weights")
            for entry in map(registry.find, registry.names()):
                height, width = entry.preprocess.size
                table.add_row(entry.name, entry.task, f"{height}x{width}", entry.licence)
        else:
            table = Table(Column("field", overflow="fold"), "value", "takes")
            for field, value in registry.find(name).fields.items():
                plain = json.dumps(msgspec.to_builtins(value)).strip('"')
                table.add_row(field, plain, _choices(value) or type(value).__name__)
    console.print(table)


@app.command()
def scenes(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the dataset goes.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Series; different seeds share no scene.")] = 0,
    size: Annotated[int, typer.Option(min=64, max=4096, help="Side in pixels.")] = 256,
    force: ForceOption = False,
) -> None:
    """Write synthetic scenes as COCO instance, panoptic and keypoint datasets."""
    with _needs("scenes"):
        from edgewise.models.scenes.dataset import write_dataset

        path = write_dataset(folder, count, seed, size, replace=force, progress=True)
    _say(f"wrote {count} scenes to {path}")


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
    with _needs("demo"):
        from edgewise.exporter.demo.demo import MODELS, run_demo, summary

        with _steps() as step:
            made = run_demo(output, models=model or MODELS, replace=force, progress=step, console=console)
    console.print(summary(made))


# ---------------------------------------------------------------- shared by the verbs


def _calibration_request(
    images: Path,
    count: int,
    seed: int,
    method: CalibrationMethod,
    validation: Path | None,
    precisions: list[Precision] | None,
) -> CalibrationRequest:
    from edgewise.exporter.precision.calibration_images import CalibrationRequest

    return CalibrationRequest(
        images=images,
        count=count,
        seed=seed,
        method=method,
        validation=validation,
        precisions=tuple(dict.fromkeys(precisions)) if precisions else (Precision.FP16, Precision.INT8),
    )


@contextmanager
def _needs(verb: str) -> Iterator[None]:
    """Turn the absence of an optional package into one line that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        raise MissingExtraError(verb, EXTRAS[missing], module=missing) from None


@contextmanager
def _steps(*, lines: bool = True) -> Iterator[Callable[[str], None]]:
    """Give a function that announces the next step.

    Args:
        lines: Whether each finished step stays on the terminal with its seconds.
    """
    errors = Console(stderr=True)
    current: list[tuple[str, float]] = []

    def finish() -> None:
        if current:
            name, begun = current.pop()
            if lines:
                errors.print(Text(f"{time.perf_counter() - begun:6.1f} s  {name}"), soft_wrap=True)

    with errors.status("starting") as status:

        def announce(name: str) -> None:
            finish()
            current.append((name, time.perf_counter()))
            status.update(name)

        yield announce
        finish()


def _choices(value: object) -> str:
    return ", ".join(str(one.value) for one in type(value)) if isinstance(value, enum.Enum) else ""


def _say(text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _say_written(bundle: Bundle, asked: list[Precision] | None) -> None:
    """Say what a bundle holds and what not.

    Raises:
        ExportError: It does not hold a precision that was asked for by name.
    """
    held = sorted({f"{file.target.value} {file.precision.value}" for graph in bundle.manifest.graphs.values()
                   for file in graph.files})  # fmt: skip
    megabytes = sum(entry.size for entry in bundle.manifest.files) / 1e6
    _say(f"wrote {bundle.path} ({megabytes:.1f} MB): {', '.join(held)}")
    for record in bundle.manifest.precisions:
        if record.kept:
            _say(
                f"{record.precision.value}: {len(record.kept)} nodes stay wider (`edgewise inspect` says why)"
            )

    steps = {step.step: step.detail for step in bundle.manifest.provenance.steps}
    made = {file.precision for graph in bundle.manifest.graphs.values() for file in graph.files}
    for precision in Precision:
        reason = steps.get(precision.value, "")
        if precision in made or not reason:
            continue
        _say(f"{precision.value} is {reason}")
        if asked and precision in asked:
            raise ExportError(
                f"the bundle is written without {precision.value}",
                where=str(bundle.path),
                hint="calibrate it on other images, or allow more by --budget",
            )


def _prove(bundle: Bundle) -> None:
    """Run the self test of every precision that ONNX Runtime can run here.

    Raises:
        ExportError: One fails; the bundle stays for a look at it.
    """
    from edgewise.runtime.command.selftest import selftest

    files = [file for graph in bundle.manifest.graphs.values() for file in graph.files]
    held = {file.precision for file in files if file.target is Target.ONNXRUNTIME}
    for precision in (each for each in Precision if each in held):
        report = selftest(bundle, Target.ONNXRUNTIME, precision)
        if report.failures:
            first = report.failures[0]
            raise ExportError(
                f"the bundle is written, and its self test fails in {precision.value}: {first.figure} is "
                f"{'nothing' if first.value is None else format(first.value, '.4g')}, the limit is "
                f"{first.limit:.4g}",
                where=first.where,
                hint="`edgewise selftest` shows every figure; do not ship it",
            )
    if held:
        _say(f"self test passed: {', '.join(each.value for each in Precision if each in held)}")


main = main_of(app)
