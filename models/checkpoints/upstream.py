"""Published checkpoints: read without running code from them, mapped by keys and shapes, whole or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgewise.models import registry
from edgewise.models.checkpoints.array_pickle import is_array_pickle, read_arrays
from edgewise.models.checkpoints.checkpoint import CheckpointMeta, refuse_non_finite, save_checkpoint
from edgewise.models.checkpoints.opaque import Opaque
from edgewise.models.checkpoints.pickled import read_pickle
from edgewise.models.checkpoints.weight_sets import WeightSet, flatten, weight_sets
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.layout import Layout, Mapped, map_state
from edgewise.models.measuring.tasks import task_of
from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.system.atomic import sha256_of
from edgewise.runtime.system.errors import CheckpointError, ModelError

_BATCH_COUNT = ".num_batches_tracked"


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        layout: Name of the layout that fitted.
        weights: Where in the file the weights lay, e.g. `ema.module`; empty where they are all of it.
        tensors: Number of tensors loaded.
        parameters: Number of learnt values among them.
        dropped: Legacy keys and other tensors of the file that were left behind.
        sha256: Of the imported file.
        vocabulary: Of the layout; None where it does not say.
    """

    layout: str
    weights: str
    tensors: int
    parameters: int
    dropped: tuple[str, ...]
    sha256: str
    vocabulary: Vocabulary | None


@dataclass(frozen=True, eq=False)
class _Attempt:
    """One set of weights of the file, mapped by one layout."""

    weights: WeightSet
    layout: Layout
    mapped: Mapped


def import_checkpoint(
    file: Path, entry: ModelEntry, weights: str | None = None
) -> tuple[nn.Module, ImportReport]:
    """Load a published checkpoint into the training definition of `entry`, in eval mode.

    Args:
        file: A .pth or .safetensors file, or a .pkl of arrays. Its weights may hang under wrappers and
            prefixes.
        entry: The model it is for.
        weights: Which of several sets of weights to take, e.g. `ema` or `model`.

    Raises:
        CheckpointError: Not a checkpoint; needs code to unpickle; NaN or infinite weights; several sets that
            fit; or it does not fit: then one error lists every unmapped, missing and mis-shaped key. Nothing
            is loaded.
    """
    chosen = _choose(file, entry, read_tensors(file), weights)
    tensors = {key: _as_stored(tensor) for key, tensor in chosen.mapped.tensors.items()}
    refuse_non_finite(tensors, str(file))
    module = entry.build()
    module.load_state_dict({**module.state_dict(), **tensors})
    report = ImportReport(
        layout=chosen.layout.name,
        weights=chosen.weights.path,
        tensors=len(tensors),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        dropped=(*chosen.mapped.dropped, *chosen.weights.beside),
        sha256=sha256_of(file),
        vocabulary=chosen.layout.vocabulary,
    )
    return module.eval(), report


def convert_checkpoint(
    file: Path,
    entry: ModelEntry,
    destination: Path,
    vocabulary: Vocabulary | None = None,
    weights: str | None = None,
) -> ImportReport:
    """Import a published checkpoint and write it as one of edgewise's own.

    Args:
        file: The published file.
        entry: The model it is for.
        destination: A .safetensors path.
        vocabulary: What it names, where that is not the layout's.
        weights: Which of several sets of weights to take.

    Raises:
        CheckpointError: As `import_checkpoint`; or the vocabulary is unknown or does not fit the model.
    """
    module, report = import_checkpoint(file, entry, weights)
    chosen = vocabulary or report.vocabulary
    hint = "give the classes that the checkpoint was trained on: --classes"
    if chosen is None:
        raise CheckpointError(
            f"the layout {report.layout!r} does not say what the model names", where=str(file), hint=hint
        )
    try:
        entry.refuse_misfit(chosen)
    except ModelError as error:
        raise CheckpointError(error.what, where=str(file), hint=hint) from None
    origin = f"{report.layout}, sha256 {report.sha256}"
    meta = CheckpointMeta.of(entry, chosen, origin=origin, licence=entry.licence)
    save_checkpoint(destination, module, meta)
    return report


def named_classes(classes: str, entry: ModelEntry) -> Vocabulary:
    """What a checkpoint of one's own was trained to name.

    Args:
        classes: Names of things in the order of the model's outputs, separated by commas, which get the
            category ids 1, 2, ...; or the COCO dataset of the model's task that it was trained on.
        entry: The model.

    Raises:
        DatasetError: Not a dataset of the task.
    """
    path = Path(classes)
    if path.exists() or path.suffix == ".json":
        return task_of(entry.task).dataset.open(path).vocabulary
    names = (name.strip() for name in classes.split(","))
    return Vocabulary(tuple(ClassLabel(id=index, name=name) for index, name in enumerate(names, 1)))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a .pth, .pkl or .safetensors file by its whole name, on the CPU; none of its code runs.

    Raises:
        CheckpointError: No such file, broken, or without any named tensor.
    """
    if not file.is_file():
        raise CheckpointError("no such checkpoint", where=str(file))
    if file.suffix == ".safetensors":
        content = _read_safetensors(file)
    else:
        content = read_arrays(file) if is_array_pickle(file) else read_pickle(file)
    tensors = flatten(content)
    if not tensors or "" in tensors:
        pickled = f", but a pickled {content.name}" if isinstance(content, Opaque) else ""
        raise CheckpointError(
            f"the file holds no state_dict (names with tensors){pickled}",
            where=str(file),
            hint="save it with torch.save(model.state_dict(), path)",
        )
    return tensors


def _read_safetensors(file: Path) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"not a safetensors file: {error}", where=str(file)) from None


def _speaks(layout: Layout, entry: ModelEntry) -> bool:
    """Whether a layout names what the model names: layouts of one architecture may differ in nothing else."""
    return layout.vocabulary is not None and layout.vocabulary.size == entry.vocabulary_size


def _as_stored(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _shapes(entry: ModelEntry) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = entry.build()
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _attempts(entry: ModelEntry, tensors: Mapping[str, Tensor]) -> list[_Attempt]:
    """Every set of weights in every layout."""
    wanted = _shapes(entry)
    counted = {name: shape for name, shape in wanted.items() if not name.endswith(_BATCH_COUNT)}
    attempts = []
    for weights in weight_sets(tensors, fewest=len(counted) // 2):
        # Files from before torch 0.4.1 do not count the batches of a batch normalisation.
        asked = wanted if any(name.endswith(_BATCH_COUNT) for name in weights.tensors) else counted
        attempts += [
            _Attempt(weights, layout, map_state(layout, weights.tensors, asked)) for layout in entry.layouts
        ]
    return attempts


def _choose(file: Path, entry: ModelEntry, tensors: Mapping[str, Tensor], name: str | None) -> _Attempt:
    """The set of weights that fits, in the layout that fits it.

    Raises:
        CheckpointError: None of them is called `name`, none fits, or several do.
    """
    attempts = _attempts(entry, tensors)
    asked = [attempt for attempt in attempts if name is None or attempt.weights.is_called(name)]
    fitting = [attempt for attempt in asked or attempts if not attempt.mapped.problems]
    paths: list[str] = []
    for attempt in fitting:  # outermost first: a layout may know a prefix itself
        if not any(attempt.weights.lies_in(path) for path in paths):
            paths.append(attempt.weights.path)
    if not asked:
        names = ", ".join(path or "the whole file" for path in paths) or "none that fits"
        raise CheckpointError(
            f"no weights of {entry.name} are called {name!r}", where=str(file), hint=f"there is: {names}"
        )
    if not fitting:
        raise _misfit(file, entry, min(asked, key=lambda attempt: len(attempt.mapped.problems)), tensors)
    if len(paths) > 1:
        raise CheckpointError(
            f"{len(paths)} sets of weights fit {entry.name}: {', '.join(paths)}",
            where=str(file),
            hint=f"choose one: {' or '.join(f'--weights {path}' for path in paths)}",
        )
    outermost = [attempt for attempt in fitting if attempt.weights.path == paths[0]]
    return min(outermost, key=lambda attempt: not _speaks(attempt.layout, entry))


def _fits(entry: ModelEntry, tensors: Mapping[str, Tensor]) -> bool:
    return any(not attempt.mapped.problems for attempt in _attempts(entry, tensors))


def _misfit(
    file: Path, entry: ModelEntry, nearest: _Attempt, tensors: Mapping[str, Tensor]
) -> CheckpointError:
    problems, path = nearest.mapped.problems, nearest.weights.path
    lines = "\n    ".join(problems)
    others = (registry.find(name) for name in registry.names())
    fitting = next((other.name for other in others if _fits(other, tensors)), None)
    hint = (
        "choose the model that the checkpoint was trained as, and give its own classes by --classes where it "
        "has any"
    )
    if fitting is not None:
        hint = f"it is a checkpoint of {fitting}: pass --model {fitting}"
    return CheckpointError(
        f"the checkpoint{f' under {path!r}' * bool(path)} does not fit {entry.name} in the layout "
        f"{nearest.layout.name!r}; nothing was loaded; {len(problems)} differences:\n    {lines}",
        where=str(file),
        hint=hint,
    )
