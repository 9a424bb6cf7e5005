"""Published checkpoints: read without running code from them, mapped by keys and shapes, whole or not."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import CheckpointMeta, refuse_non_finite, save_checkpoint
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.layout import Layout, Mapped, map_state
from edgewise.runtime.system.atomic import sha256_of
from edgewise.runtime.system.errors import CheckpointError, ModelError

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL_PREFIX = "module."


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        layout: Name of the layout that fitted.
        tensors: Number of tensors loaded.
        parameters: Number of learnt values among them.
        dropped: Legacy keys that were left behind.
        sha256: Of the imported file.
        vocabulary: Of the layout; None where it does not say.
    """

    layout: str
    tensors: int
    parameters: int
    dropped: tuple[str, ...]
    sha256: str
    vocabulary: Vocabulary | None


def import_checkpoint(file: Path, entry: ModelEntry) -> tuple[nn.Module, ImportReport]:
    """Load a published checkpoint into the training definition of `entry`, in eval mode.

    Raises:
        CheckpointError: Not a checkpoint; needs code to unpickle; NaN or infinite weights; or it does not
            fit: then one error lists every unmapped, missing and mis-shaped key, and nothing is loaded.
    """
    published = read_state(file)
    refuse_non_finite(published, str(file))
    wanted = _shapes(entry)
    attempts = [(layout, map_state(layout, published, wanted)) for layout in entry.layouts]
    layout, mapped = min(
        attempts, key=lambda attempt: (len(attempt[1].problems), not _speaks(attempt[0], entry))
    )
    if mapped.problems:
        raise _misfit(file, entry, layout.name, mapped, published)
    module = entry.build()
    module.load_state_dict({key: _as_stored(tensor) for key, tensor in mapped.tensors.items()})
    report = ImportReport(
        layout=layout.name,
        tensors=len(mapped.tensors),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        dropped=mapped.dropped,
        sha256=sha256_of(file),
        vocabulary=layout.vocabulary,
    )
    return module.eval(), report


def convert_checkpoint(
    file: Path, entry: ModelEntry, destination: Path, vocabulary: Vocabulary | None = None
) -> ImportReport:
    """Import a published checkpoint and write it as one of edgewise's own.

    Args:
        file: The published file.
        entry: The model it is for.
        destination: A .safetensors path.
        vocabulary: What it names, where that is not the layout's.

    Raises:
        CheckpointError: As `import_checkpoint`; or the vocabulary is unknown or does not fit the model.
    """
    module, report = import_checkpoint(file, entry)
    chosen = vocabulary or report.vocabulary
    hint = "give the classes that the checkpoint was trained on"
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


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file by name, on the CPU; no code from the file is run.

    Unwraps `{"state_dict": ...}` and the `module.` prefix of data-parallel training.
    """
    if not file.is_file():
        raise CheckpointError("no such checkpoint", where=str(file))
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    if isinstance(content, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        content = content if wrapper is None else content[wrapper]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise CheckpointError(
            "the file holds no state_dict (names with tensors)",
            where=str(file),
            hint="save it with torch.save(model.state_dict(), path)",
        )
    state = dict(content)
    if all(key.startswith(_PARALLEL_PREFIX) for key in state):
        state = {key.removeprefix(_PARALLEL_PREFIX): tensor for key, tensor in state.items()}
    return state


def _read_safetensors(file: Path) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"not a safetensors file: {error}", where=str(file)) from None


def _read_pickle(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"no plain checkpoint, or one that needs code, which edgewise never runs: {reason}",
            where=str(file),
            hint="save the bare weights with torch.save(model.state_dict(), path) where the file was made",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"not a PyTorch checkpoint: {reason}", where=str(file), hint="fetch the file again"
        ) from None


def _speaks(layout: Layout, entry: ModelEntry) -> bool:
    """Whether a layout names what the model names: layouts of one architecture may differ in nothing else."""
    return layout.vocabulary is not None and layout.vocabulary.size == entry.vocabulary_size


def _as_stored(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _shapes(entry: ModelEntry) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = entry.build()
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _fits(entry: ModelEntry, published: Mapping[str, Tensor]) -> bool:
    wanted = _shapes(entry)
    return any(not map_state(layout, published, wanted).problems for layout in entry.layouts)


def _misfit(
    file: Path, entry: ModelEntry, layout: str, mapped: Mapped, published: Mapping[str, Tensor]
) -> CheckpointError:
    lines = "\n    ".join(mapped.problems)
    others = (registry.find(name) for name in registry.names())
    fitting = next((other.name for other in others if _fits(other, published)), None)
    hint = "choose the model that the checkpoint was trained as, with its number of classes"
    if fitting is not None:
        hint = f"it is a checkpoint of {fitting}: pass --model {fitting}"
    return CheckpointError(
        f"the checkpoint does not fit {entry.name} in the layout {layout!r}; nothing was loaded; "
        f"{len(mapped.problems)} differences:\n    {lines}",
        where=str(file),
        hint=hint,
    )
