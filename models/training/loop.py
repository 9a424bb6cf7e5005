"""`edgewise train`: any model of the registry on a dataset of its task, resumable after a kill."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edgewise.models.checkpoints.checkpoint import (
    CheckpointMeta,
    LoadedModel,
    load_checkpoint,
    save_checkpoint,
)
from edgewise.models.checkpoints.pickled import read_pickle
from edgewise.models.data.dataset import Dataset
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.recipe import Recipe
from edgewise.models.measuring.tasks import task_of
from edgewise.models.tasks.task import Measured
from edgewise.models.training.batches import BatchSource
from edgewise.models.training.learners import Learner, Losses, Supervised
from edgewise.runtime.contract.preprocessing import (
    AffineCrop,
    CentredFrame,
    ColourOrder,
    Letterbox,
    Preprocess,
    ShortestEdge,
    SquareCrop,
)
from edgewise.runtime.system.atomic import sha256_of, staged_file
from edgewise.runtime.system.documents import parse_json
from edgewise.runtime.system.errors import CheckpointError, DatasetError, ModelError
from edgewise.runtime.system.interruption import deferred_interrupt
from edgewise.runtime.system.ownership import refuse_existing_file
from edgewise.runtime.system.publishing import writing

_PARTIAL, _HISTORY = ".partial.safetensors", ".history.json"

History = list[dict[str, float]]
"""One record each time the state is saved."""


@dataclass(frozen=True)
class TrainingRequest:
    """One training run.

    Attributes:
        entry: Model of the registry; its classes and keypoints follow the dataset.
        data: COCO annotation file of the model's task, or a folder that holds one and `images/`.
        out: The safetensors checkpoint to write.
        images: Folder of the images, where it is not `images/` beside the annotations.
        recipe: How to train; None is the model's own recipe.
        seed: Of the initial weights, the order of the samples and their variation.
        initial: Checkpoint whose tensors are taken over where name and shape fit, e.g. another model's
            backbone.
        evaluation: Dataset on which the task's metric is measured each time the state is saved.
        save_every: Steps between saved states.
        threads: CPU threads of torch; None leaves torch's choice.
        device: "cpu", "cuda", ...; None takes CUDA where there is one.
        restart: Forget the state of an interrupted run, and replace an existing checkpoint.
        command: What the user typed; it is kept in the checkpoint.
        progress: Whether to show a progress bar on the terminal.
    """

    entry: ModelEntry
    data: Path
    out: Path
    images: Path | None = None
    recipe: Recipe | None = None
    seed: int = 0
    initial: Path | None = None
    evaluation: Path | None = None
    save_every: int = 500
    threads: int | None = None
    device: str | None = None
    restart: bool = False
    command: str = ""
    progress: bool = False


def train(request: TrainingRequest) -> Path:
    """Train and write a checkpoint that carries its config, vocabulary and command.

    Beside `out` lie, while the run lasts, `<out>.state` (everything needed to go on) and
    `<out>.partial.safetensors` (a usable checkpoint of the last saved step). A run that was killed goes on
    from the state when the same request is made again, with the same sequence of batches.
    `<out>.history.json` stays: the loss terms and, with `evaluation`, the metric (by its name: "box AP",
    "mask AP", "PQ", "PCK@0.1" or "OKS AP") at each saved step.

    Raises:
        DatasetError: The dataset cannot be used.
        ModelError: The loss is not a number, the state belongs to another run, or the model cannot name what
            the dataset annotates.
        CheckpointError: No tensor of `initial` fits the model, or it is not a checkpoint.
        EdgewiseError: `out` or a file beside it exists and `restart` is not set, or somebody else writes it.
    """
    with writing(request.out), writing(_beside(request.out, ".state")):
        return _train(request)


def _train(request: TrainingRequest) -> Path:
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    recipe = request.recipe or request.entry.recipe
    state_path = _beside(request.out, ".state")
    resumed = state_path.exists() and not request.restart
    for path in (request.out, state_path, *(_beside(request.out, suffix) for suffix in (_PARTIAL, _HISTORY))):
        refuse_existing_file(path, replace=request.restart or resumed)
    dataset = task_of(request.entry.task).dataset.open(request.data, request.images, keep=True)
    if dataset.object_count == 0:
        raise DatasetError(
            "the dataset has no annotated objects to train on",
            where=str(dataset.json),
            hint="check the export of the annotations",
        )
    evaluation = _evaluation_set(request, dataset)
    entry = request.entry.fit(dataset.vocabulary).as_trained()
    device = torch.device(request.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    identity = _identity(entry, recipe, request, dataset)
    begun = None if request.initial is None else load_checkpoint(request.initial)[0]
    learner = Supervised(entry, recipe, request.seed, request.initial, device)
    history = _load_state(state_path, learner, identity) if resumed else []

    def write(path: Path) -> None:
        metrics = dict(history[-1]) if history else {}
        meta = CheckpointMeta.of(
            entry,
            dataset.vocabulary,
            training_command=request.command,
            origin="" if begun is None else begun.origin,
            licence="" if begun is None else begun.licence,
            metrics=metrics,
        )
        save_checkpoint(path, learner.result, meta)

    def save() -> None:
        record = {"step": float(learner.step), **_mean(recent)}
        if evaluation is not None:
            measured = _measure(entry, learner.result, evaluation)
            record[measured.name] = measured.value
        history.append(record)
        recent.clear()
        _save_state(state_path, learner, history, identity)
        write(_beside(request.out, _PARTIAL))
        with staged_file(_beside(request.out, _HISTORY)) as path:
            path.write_text(json.dumps(history, indent=1) + "\n")

    source = BatchSource(dataset, in_bgr(entry.preprocess), recipe.augmentation, recipe.batch, request.seed)
    recent: list[Losses] = []
    with _shown_progress(request, dataset.remarks, recipe.steps, learner.step) as report:
        try:
            for _, batch in source.run(learner.step, recipe.steps):
                with deferred_interrupt():  # a step is taken wholly or not
                    recent.append(learner.take_step(batch))
                report(learner.step, recent[-1], history)
                if learner.step % request.save_every == 0 or learner.step == recipe.steps:
                    save()
        except KeyboardInterrupt:
            if learner.step:
                _save_state(state_path, learner, history, identity)
            raise
    write(request.out)
    _beside(request.out, _PARTIAL).unlink(missing_ok=True)
    state_path.unlink(missing_ok=True)
    return request.out


def in_bgr(spec: Preprocess) -> Preprocess:
    """The same preprocessing with frames in BGR, which is what `ModelEntry.normalise` takes."""
    if spec.colour is ColourOrder.BGR:
        return spec
    changes: dict[str, Any] = {"colour": ColourOrder.BGR}
    if isinstance(spec, Letterbox | ShortestEdge | CentredFrame | AffineCrop | SquareCrop):
        changes["pad_value"] = spec.pad_value[::-1]
    return msgspec.structs.replace(spec, **changes)


def _evaluation_set(request: TrainingRequest, dataset: Dataset) -> Dataset | None:
    if request.evaluation is None:
        return None
    evaluation = task_of(request.entry.task).dataset.open(request.evaluation)
    if evaluation.vocabulary != dataset.vocabulary:
        raise DatasetError(
            "the evaluation set has other classes or keypoints than the training set",
            where=str(evaluation.json),
            hint="evaluate on a dataset with the same categories",
        )
    return evaluation


def _identity(entry: ModelEntry, recipe: Recipe, request: TrainingRequest, dataset: Dataset) -> str:
    """What must not change between the parts of an interrupted run."""
    plan = asdict(recipe)
    parts = {
        "model": entry.name,
        "config": msgspec.to_builtins(entry.config),
        "recipe": {**plan, "optimiser": recipe.optimiser.value, "schedule": recipe.schedule.value},
        "seed": request.seed,
        "initial": None if request.initial is None else sha256_of(request.initial),
        "data": sha256_of(dataset.json),
    }
    return json.dumps(parts, sort_keys=True)


def _save_state(path: Path, learner: Learner, history: History, identity: str) -> None:
    state = {"identity": identity, "history": history, **learner.state()}
    with staged_file(path) as temporary:
        torch.save(state, temporary)


def _load_state(path: Path, learner: Learner, identity: str) -> History:
    hint = "it was the state of an interrupted run: pass --restart to begin again"
    state = read_pickle(path, hint)
    refusal = CheckpointError("not the state of a training", where=str(path), hint=hint)
    if not isinstance(state, dict) or not isinstance(kept := state.get("identity"), str):
        raise refusal
    if kept != identity:
        plan = parse_json(kept, lambda _: refusal)
        if not isinstance(plan, dict):
            raise refusal
        changed = [key for key, value in json.loads(identity).items() if plan.get(key) != value]
        raise ModelError(
            f"an interrupted run with other settings lies there (different: {', '.join(changed)})",
            where=str(path),
            hint="repeat its command to go on, pass --restart to begin again, or choose another --output",
        )
    try:
        kept_so_far = msgspec.convert(state["history"], History)
        learner.load(state)
        if not isinstance(learner.step, int) or learner.step < 0:
            raise ValueError(learner.step)
        return kept_so_far
    except Exception:  # torch loads a state piece by piece, and no list says how a broken piece ends
        raise CheckpointError(
            "a part of the state is missing or broken", where=str(path), hint=hint
        ) from None


def _measure(entry: ModelEntry, module: nn.Module, evaluation: Dataset) -> Measured:
    from edgewise.models.checkpoints.evaluation import evaluate_module

    meta = CheckpointMeta.of(entry, evaluation.vocabulary)
    return evaluate_module(LoadedModel(entry, module.eval(), meta, ""), evaluation)


def _mean(records: list[Losses]) -> Losses:
    if not records:
        return {}
    return {name: sum(record[name] for record in records) / len(records) for name in records[0]}


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.stem + suffix)


Report = Callable[[int, Losses, History], None]


@contextmanager
def _shown_progress(
    request: TrainingRequest, remarks: Sequence[str], steps: int, start: int
) -> Iterator[Report]:
    """A function to call after each step; it moves a bar where one is wanted, below the dataset's remarks."""
    if not request.progress:
        yield lambda step, losses, history: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    smooth: Losses = {}

    def report(step: int, losses: Losses, history: History) -> None:
        for name, value in losses.items():
            smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
        text = "  ".join(f"{name} {value:.3f}" for name, value in smooth.items())
        measured = task_of(request.entry.task).metric.name
        if history and measured in history[-1]:
            text += f"  {measured} {history[-1][measured]:.3f}"
        progress.update(task, completed=step, terms=text)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    for remark in remarks:
        console.print(remark, markup=False, soft_wrap=True)
    with Progress(*columns, TextColumn("{task.fields[terms]}"), console=console) as progress:
        task = progress.add_task(request.entry.name, total=steps, completed=start, terms="")
        yield report
