"""One writer at a time: a lock for whatever is written, which the kernel releases when its holder dies.

The lock is a hidden file beside what is written, locked by `flock`; it names its holder. A file that a killed
holder left locks nothing. Where a file system knows no locks there are none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.system.ownership import LOCK

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[tuple[Path, int]] = set()
"""What each thread of this process has claimed."""


def real(path: Path) -> Path:
    """The absolute path with every link on the way resolved, so that two names of one thing are one."""
    return Path(os.path.realpath(path))


def writable_beside(path: Path) -> bool:
    """Whether things made beside `path` can be renamed to it: it is no mount, and its folder is writable."""
    return not os.path.ismount(path) and os.access(path.parent, os.W_OK | os.X_OK)


@contextmanager
def claim(path: Path, *, waiting: Callable[[str], None] | None = None) -> Generator[bool]:
    """Be the only writer of a file or folder, which need not exist, inside the block.

    A thread may claim again what it holds; then the block is given False. Folders above `path` are made, and
    go again where they stay empty.

    Args:
        waiting: Called once with who holds it, before waiting for that; where None, that is an error.

    Raises:
        EdgewiseError: Somebody else writes it, or its folder cannot be written.
    """
    path = real(path)
    key = (path, threading.get_ident())
    if key in _held:
        yield False
        return
    made = [folder for folder in path.parents if not folder.exists()]
    lock = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = path.is_dir() and not writable_beside(path)
        lock = path / LOCK if inside else path.with_name(f".{path.name}{LOCK}")
        descriptor = _acquire(lock, path, waiting)
    except OSError as error:
        raise EdgewiseError(
            f"the output cannot be written: {error.strerror}",
            where=str(error.filename or lock.parent),
            hint="choose another folder",
        ) from None
    _held.add(key)
    try:
        yield True
    finally:
        _held.discard(key)
        lock.unlink(missing_ok=True)
        os.close(descriptor)
        for folder in made:
            with suppress(OSError):  # not empty: it is needed
                folder.rmdir()


def _acquire(lock: Path, path: Path, waiting: Callable[[str], None] | None) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            _lock(descriptor, path, waiting)
            # The holder before may have removed the file since it was opened: then the lock is on nothing.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(lock)):
                    _sign(descriptor)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path, waiting: Callable[[str], None] | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another process"
        if waiting is None:
            raise EdgewiseError(
                f"it is being written by {holder}",
                where=str(path),
                hint="wait until that has ended, or choose another output",
            ) from None
        waiting(holder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise


def _sign(descriptor: int) -> None:
    """Say in the lock who holds it."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.pwrite(
        descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}".encode(), 0
    )
