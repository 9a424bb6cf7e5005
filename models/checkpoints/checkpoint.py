"""Checkpoints of edgewise: one safetensors file that carries its model, config and vocabulary.

The file's metadata key `edgewise` holds the JSON of `CheckpointMeta`; the tensors are the state_dict of the
training definition. Nothing in it is code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgewise.models import registry
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.layout import Layout, map_state
from edgewise.runtime.system.atomic import sha256_of, write_bytes
from edgewise.runtime.system.documents import parse_json
from edgewise.runtime.system.errors import CheckpointError, ModelError

CHECKPOINT_FORMAT = 1
METADATA_KEY = "edgewise"
_RETRAIN = "train again with `edgewise train`, or fetch the file again"


class CheckpointMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the tensors are: enough to build the model again."""

    format: int = CHECKPOINT_FORMAT
    model: str
    """Name in the registry."""
    config: dict[str, Any]
    """The entry's config as plain values."""
    vocabulary: Vocabulary
    training_command: str = ""
    origin: str = ""
    """Where published weights come from that were imported, or that the training began from: layout and
    SHA-256 of the imported file."""
    licence: str = ""
    """Terms of those published weights; empty where there are none."""
    metrics: dict[str, float] = {}

    @classmethod
    def of(
        cls,
        entry: ModelEntry,
        vocabulary: Vocabulary,
        *,
        training_command: str = "",
        origin: str = "",
        licence: str = "",
        metrics: dict[str, float] | None = None,
    ) -> CheckpointMeta:
        """The metadata of a module that `entry.build()` gave."""
        return cls(
            model=entry.name,
            config=msgspec.to_builtins(entry.config),
            vocabulary=vocabulary,
            training_command=training_command,
            origin=origin,
            licence=licence,
            metrics=metrics or {},
        )

    def entry(self) -> ModelEntry:
        """The registry's entry with this checkpoint's config."""
        return registry.find(self.model).from_config(self.config)


@dataclass(frozen=True)
class LoadedModel:
    """A training definition in eval mode, with everything its checkpoint says."""

    entry: ModelEntry
    module: nn.Module
    meta: CheckpointMeta
    sha256: str


def save_checkpoint(path: Path, module: nn.Module, meta: CheckpointMeta) -> None:
    """Write a module's state whole or not at all.

    Raises:
        CheckpointError: A weight is NaN or infinite.
    """
    write_bytes(path, encode_checkpoint(module, meta, where=str(path)))


def encode_checkpoint(module: nn.Module, meta: CheckpointMeta, *, where: str = "") -> bytes:
    """The bytes of a checkpoint.

    Raises:
        CheckpointError: A weight is NaN or infinite.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    refuse_non_finite(tensors, where)
    return save(tensors, {METADATA_KEY: json.dumps(msgspec.to_builtins(meta))})


def load_checkpoint(path: Path) -> tuple[CheckpointMeta, dict[str, Tensor]]:
    """Read metadata and tensors.

    Raises:
        CheckpointError: Missing, not a checkpoint of edgewise, a newer format, or a NaN or infinite weight.
    """
    if not path.is_file():
        raise CheckpointError(
            "no such checkpoint", where=str(path), hint="give the path of a .safetensors file"
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"not a safetensors file: {error}",
            where=str(path),
            hint="published .pth files come in through `edgewise import-checkpoint`",
        ) from None
    if text is None:
        raise CheckpointError(
            "a safetensors file that edgewise did not write: it has no `edgewise` metadata",
            where=str(path),
            hint="bring foreign weights in through `edgewise import-checkpoint`",
        )
    meta = _read_meta(text, path)
    refuse_non_finite(tensors, str(path))
    return meta, tensors


def load_model(path: Path) -> LoadedModel:
    """Build the model that a checkpoint describes, with its weights, in eval mode.

    Raises:
        CheckpointError: As `load_checkpoint`; or the tensors or the vocabulary do not fit the model that the
            metadata names.
    """
    meta, tensors = load_checkpoint(path)
    try:
        entry = meta.entry()
    except ModelError as error:
        raise CheckpointError(error.what, where=str(path), hint=error.hint) from None
    try:
        entry.refuse_misfit(meta.vocabulary)
    except ModelError as error:
        raise CheckpointError(error.what, where=str(path), hint=_RETRAIN) from None
    module = entry.build()
    load_whole_state(module, tensors, str(path))
    return LoadedModel(entry, module.eval(), meta, sha256_of(path))


def under_config(loaded: LoadedModel, entry: ModelEntry) -> LoadedModel:
    """The same weights under another config of the model; its SHA-256 is that of a checkpoint which says so.

    Raises:
        CheckpointError: Weights of this shape do not fit the config.
    """
    if entry.config == loaded.entry.config:
        return loaded
    module = entry.build()
    load_whole_state(module, loaded.module.state_dict(), f"{entry.name} under another config")
    meta = msgspec.structs.replace(loaded.meta, config=msgspec.to_builtins(entry.config))
    return LoadedModel(entry, module.eval(), meta, sha256(encode_checkpoint(module, meta)).hexdigest())


def load_whole_state(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load a state_dict that must fit exactly.

    Raises:
        CheckpointError: Lists every unknown, missing or mis-shaped key; the module keeps its old weights.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    problems = map_state(Layout("edgewise"), tensors, wanted).problems
    if problems:
        lines = "\n    ".join(problems)
        raise CheckpointError(
            f"the weights do not fit the model, {len(problems)} differences:\n    {lines}",
            where=where,
            hint=_RETRAIN,
        )
    module.load_state_dict(tensors)


def refuse_non_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Raise CheckpointError naming the tensors that hold NaN or infinity."""
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise CheckpointError(
            f"{len(bad)} tensors hold NaN or infinite weights: {shown}", where=where, hint=_RETRAIN
        )


def _read_meta(text: str, path: Path) -> CheckpointMeta:
    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint's metadata is broken: {reason}", where=str(path), hint=_RETRAIN
        )

    plain = parse_json(text, refuse)
    try:
        version = plain["format"]
        if version != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"checkpoint format {version}; this edgewise reads format {CHECKPOINT_FORMAT}",
                where=str(path),
                hint="update edgewise on this machine",
            )
        if "labels" in plain:  # how instance models said it before there were other vocabularies
            plain["vocabulary"] = {"classes": plain.pop("labels")}
        if plain.get("origin") and "licence" not in plain:  # imported before checkpoints kept it
            plain["licence"] = registry.find(plain["model"]).licence
        return msgspec.convert(plain, CheckpointMeta)
    except (KeyError, TypeError, AttributeError) as error:
        raise refuse(f"it lacks {error}" if isinstance(error, KeyError) else "it is no object") from None
    except (msgspec.ValidationError, ModelError) as error:
        raise refuse(str(error)) from None
