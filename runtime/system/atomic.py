"""Files and folders that appear whole or not at all: write beside, fsync, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgewise.runtime.system.errors import EdgewiseError


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

    The temporary keeps the suffix of `path`, because encoders choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path, *, replace: bool = False) -> Generator[Path]:
    """Give a temporary folder beside `path`; it becomes `path` when the block ends well.

    Raises:
        EdgewiseError: `path` exists and is not empty, and `replace` is not set.
    """
    refuse_existing(path, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _flush(file)
        temporary.chmod(0o777 & ~_umask())
        _swap_in(temporary, path)
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path, *, replace: bool) -> None:
    """Raise where writing `path` would lose what is there; call it before long work starts."""
    occupied = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if occupied and not replace:
        raise EdgewiseError(
            "the destination exists already", where=str(path), hint="choose another, or pass --force"
        )


def _swap_in(temporary: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    with suppress(FileNotFoundError):
        os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
