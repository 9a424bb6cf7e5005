"""The verbs before a bundle: scenes, train, evaluate, import-checkpoint, models."""

from __future__ import annotations

import enum
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Column, Table

from edgewise.exporter.command.verb import ConfigOption, ForceOption, console, needs, say
from edgewise.runtime.command.cli import settings_of

app = typer.Typer()


@app.command()
def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name in the registry, e.g. yolact-tiny.")],
    data: Annotated[
        Path,
        typer.Option(
            help="COCO json of the model's task, or a folder with instances.json, panoptic.json, "
            "keypoints.json or surface.json, and images/."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors checkpoint.")],
    images: Annotated[Path | None, typer.Option(help="Image folder, if not beside the json.")] = None,
    initial: Annotated[
        Path | None, typer.Option(help="Checkpoint whose tensors begin the training where they fit.")
    ] = None,
    evaluation: Annotated[Path | None, typer.Option(help="Dataset to measure the task's metric on.")] = None,
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
    with needs("train"):
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
    say(f"wrote {path}")


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
    """Measure a training definition by its task's metric: box AP, mask AP, PQ or PCK@0.1."""
    with needs("evaluate"):
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
        say(f"{measured.unsettled} images needed more suppression rounds than the model has")


@app.command()
def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A published .pth, .pkl or .safetensors.")],
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
    with needs("import-checkpoint"):
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
    say(f"{report.layout}: {report.tensors} tensors{source}, {report.parameters / 1e6:.2f} M parameters")
    for name in report.dropped:
        say(f"left behind: {name}")
    say(f"wrote {output}")


@app.command()
def models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show what of this model `--set` takes.")
    ] = None,
) -> None:
    """List the models of the registry, or the fields of one model's config."""
    with needs("models"):
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


class SceneKind(enum.Enum):
    """What synthetic scenes show."""

    THINGS = "things"
    FACES = "faces"


@app.command()
def scenes(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the dataset goes.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Series; different seeds share no scene.")] = 0,
    size: Annotated[int, typer.Option(min=64, max=4096, help="Side in pixels.")] = 256,
    of: Annotated[SceneKind, typer.Option(help="Things of six classes, or faces with 98 landmarks.")] = (
        SceneKind.THINGS
    ),
    force: ForceOption = False,
) -> None:
    """Write synthetic scenes as COCO instance, panoptic and keypoint datasets."""
    with needs("scenes"):
        from edgewise.models.scenes.dataset import write_dataset
        from edgewise.models.scenes.face_dataset import write_face_dataset

        write = {SceneKind.THINGS: write_dataset, SceneKind.FACES: write_face_dataset}[of]
        path = write(folder, count, seed, size, replace=force, progress=True)
    say(f"wrote {count} scenes to {path}")


def _choices(value: object) -> str:
    return ", ".join(str(one.value) for one in type(value)) if isinstance(value, enum.Enum) else ""
