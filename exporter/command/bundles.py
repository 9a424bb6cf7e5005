"""The verbs that make, complete and judge a bundle: export, calibrate, build, parity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewise.exporter.command.verb import ConfigOption, ForceOption, console, needs, say, steps
from edgewise.runtime.command.cli import settings_of
from edgewise.runtime.contract.manifest import CalibrationMethod, Precision, Target
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    from edgewise.exporter.precision.calibration_images import CalibrationRequest
    from edgewise.runtime.contract.bundle import Bundle

app = typer.Typer()

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
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PRECISION.LIMIT=VALUE",
        help="What a precision may differ by, e.g. int8.matched=0.9; limits are error, cosine, matched, "
        "similarity, score and metric. May be repeated.",
    ),
]


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
    batch: Annotated[
        int, typer.Option(min=1, help="Most people of a frame, or frames without state, in one launch.")
    ] = 1,
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
    with needs("export"):
        from edgewise.exporter.bundle.budgets import DEFAULT_BUDGETS, changed_budgets
        from edgewise.exporter.way.export import ExportOptions, export_checkpoint

        request = None
        if calibration is not None:
            request = _calibration_request(calibration, count, seed, method, validation, precision)
        elif validation is not None:
            raise ExportError(
                "--validation judges INT8: it needs --calibration", hint="give --calibration IMAGES"
            )
        with steps() as step:
            options = ExportOptions(
                replace=force,
                device_only=device_only,
                targets=tuple(dict.fromkeys(target)) if target else tuple(Target),
                images=tuple(golden or ()),
                batch=batch,
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
    with needs("calibrate"):
        from dataclasses import replace

        from edgewise.exporter.bundle.budgets import changed_budgets
        from edgewise.exporter.precision.quantise import calibrate_bundle
        from edgewise.runtime.contract.bundle import Bundle

        opened = Bundle.open(bundle)
        request = _calibration_request(images, count, seed, method, validation, precision)
        if budget:
            request = replace(request, budgets=changed_budgets(opened.manifest.budgets, budget))
        with steps() as step:
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
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="An engine of exactly so many looks; 1 to the bundle's batch if left out."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Build even where the engine is in the cache.")] = False,
) -> None:
    """Build the engine of every graph, and check that it computes in the precision that was asked for."""
    with needs("build"):
        from edgewise.exporter.engines.build import CHECKS_ONLY, BuildOptions, build_engine, with_realised
        from edgewise.runtime.contract.bundle import Bundle

        opened = Bundle.open(bundle)
        capabilities = tuple(name.strip() for name in compute_capability.split(",") if name.strip())
        for name in graph or opened.manifest.graphs:
            with steps(lines=False) as step:
                options = BuildOptions(
                    graph=name,
                    compute_capabilities=capabilities,
                    output=output,
                    workspace_mib=workspace,
                    optimisation_level=optimisation_level,
                    batch=batch,
                    force=force,
                    progress=step,
                )
                record = build_engine(opened, target, precision, options)
                opened = with_realised(opened, record, step)
            say(
                f"{name}, {record.realised.tool} for {record.realised.device}: "
                f"{record.size / 1e6:.1f} MB, {record.realised.counts()}"
            )
        if (target, precision) in CHECKS_ONLY:
            say(f"{precision.value} on {target.value} is {CHECKS_ONLY[target, precision]}")


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
    with needs("parity"):
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


def _say_written(bundle: Bundle, asked: list[Precision] | None) -> None:
    """Say what a bundle holds and what not.

    Raises:
        ExportError: It does not hold a precision that was asked for by name.
    """
    held = sorted({f"{file.target.value} {file.precision.value}" for graph in bundle.manifest.graphs.values()
                   for file in graph.files})  # fmt: skip
    megabytes = sum(entry.size for entry in bundle.manifest.files) / 1e6
    say(f"wrote {bundle.path} ({megabytes:.1f} MB): {', '.join(held)}")
    for record in bundle.manifest.precisions:
        if record.kept:
            say(
                f"{record.precision.value}: {len(record.kept)} nodes stay wider (`edgewise inspect` says why)"
            )

    steps = {step.step: step.detail for step in bundle.manifest.provenance.steps}
    for step in bundle.manifest.provenance.steps:
        if step.step == "traffic":
            say(f"{step.detail} (`edgewise inspect --traffic`)")
    made = {file.precision for graph in bundle.manifest.graphs.values() for file in graph.files}
    for precision in Precision:
        reason = steps.get(precision.value, "")
        if precision in made or not reason:
            continue
        say(f"{precision.value} is {reason}")
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
        say(f"self test passed: {', '.join(each.value for each in Precision if each in held)}")
