"""Files of `torch.save`, read without running code from them.

torch's restricted unpickler builds tensors and plain containers only. People save more beside their weights:
NumPy numbers, Namespaces, config objects. Every such name is answered with a stand-in that does nothing, so
the weights can be read and nothing of the file runs.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from typing import IO, Any

import torch

from edgewise.models.checkpoints.opaque import Opaque, OpaqueDict
from edgewise.runtime.system.errors import CheckpointError

_PLAIN_PICKLES = 4
"""A file from before torch saved zip archives begins with magic number, protocol, machine and content."""


def read_pickle(file: Path, hint: str = "fetch the file again") -> Any:
    """What `torch.save` wrote, on the CPU; objects of unknown classes are `Opaque` or dictionaries.

    Args:
        file: A zip archive of `torch.save`, or its older form.
        hint: What to do where the file is broken.

    Raises:
        CheckpointError: Not such a file, cut short, or it needs code; the message names the classes.
    """
    names = _global_names(file)
    if names is not None:
        for base in (Opaque, OpaqueDict):
            # NumPy sets the state of what it made, which no dictionary takes.
            stand_ins = [
                (type("Opaque", (Opaque if name.startswith("numpy") else base,), {"name": name}), name)
                for name in names
            ]
            try:
                with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
                    warnings.simplefilter("ignore")
                    return torch.load(file, map_location="cpu", weights_only=True)
            except Exception:  # a broken pickle ends in whatever its last instruction did
                continue
    foreign = [name for name in names or () if not name.startswith(("torch.", "collections."))]
    if foreign:
        raise CheckpointError(
            f"it needs code to be read, which edgewise never runs: {', '.join(foreign[:5])}",
            where=str(file),
            hint="save the bare weights with torch.save(model.state_dict(), path) where the file was made",
        )
    raise CheckpointError("not a PyTorch checkpoint, or part of one", where=str(file), hint=hint)


def _global_names(file: Path) -> list[str] | None:
    """Every `module.name` that the pickles of a file ask for; None where there is no pickle."""
    try:
        with file.open("rb") as opened:
            if zipfile.is_zipfile(opened):
                archive = zipfile.ZipFile(opened)
                (inner,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                return _names(io.BytesIO(archive.read(inner)), 1)
            opened.seek(0)
            return _names(opened, _PLAIN_PICKLES)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except Exception:  # as above: what reads them stops wherever the bytes stop making sense
        return None


def _names(stream: IO[bytes], pickles: int) -> list[str]:
    asked = {
        tuple(argument.split(" ", 1))
        for _ in range(pickles)
        for operation, argument, _ in pickletools.genops(stream)
        if operation.name == "GLOBAL"
    }
    # Pickles of protocol 2 call modules as Python 2 did.
    now = (
        NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)) for module, name in asked
    )
    return sorted(".".join(names) for names in now)
