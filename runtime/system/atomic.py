"""Files and folders that appear whole or not at all: write beside, fsync, rename.

Each has one writer at a time (`claims.py`), and replaces what it may replace only (`ownership.py`); whoever
writes a path first removes what a killed writer of it left (`publishing.py`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from edgewise.runtime.system.claims import real
from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.system.ownership import (
    Listed,
    held_files,
    is_regular,
    listed_files,
    not_ours,
    refuse_existing,
    write_marker,
)
from edgewise.runtime.system.publishing import flush, hidden, staging_for, writing


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 lower-case hexadecimal digits, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; a reader sees the old file or the new one, never a part."""
    with staged_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


@contextmanager
def staged_file(path: Path) -> Generator[Path]:
    """Give a temporary path in the folder of `path`; rename it to `path` when the block ends well.

    The temporary keeps the suffix of `path`, because encoders choose the format by it. A second writer waits.

    Raises:
        EdgewiseError: Something other than a plain file stands at `path`, or its folder cannot be written.
    """
    _refuse_other_than_file(path)
    path = real(path.parent) / path.name
    with writing(path, waiting=lambda holder: None):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=hidden(path), suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            flush(temporary)
            temporary.chmod(0o666 & ~_umask())
            _refuse_other_than_file(path)
            os.replace(temporary, path)
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path, *, replace: bool = False, listed: Listed | None = None) -> Generator[Path]:
    """Give a temporary folder beside `path`; it becomes `path` when the block ends well.

    Args:
        replace: Allow that it takes the place of a plain file, or of a folder that edgewise has filled.
        listed: How such a folder lists what is in it; by a marker, which the new one gets too, where None.

    Raises:
        EdgewiseError: `path` exists and is not empty, and `replace` is not set; or it holds what is not ours;
            or somebody else writes it.
    """
    own = listed or listed_files
    refuse_existing(path, replace=replace, listed=own)
    with writing(path):
        refuse_existing(path, replace=replace, listed=own)
        with staging_for(path) as staging:
            if not staging.beside:
                raise EdgewiseError(
                    "nothing can be exchanged for the destination: it is a mount, or its folder is read-only",
                    where=str(path),
                    hint="choose a folder inside it",
                )
            staging.content.mkdir()
            yield staging.content
            if listed is None:
                write_marker(staging.content, held_files(staging.content))
            refuse_existing(path, replace=replace, listed=own)
            staging.publish()


def _refuse_other_than_file(path: Path) -> None:
    if os.path.lexists(path) and not is_regular(path):
        raise not_ours(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
