"""Give what was made its name in one step, or so that the next writer can finish the step.

Everything is made in a hidden staging folder beside its destination. One name is exchanged by `renameat2`,
which has no moment without either. Where that is missing, or several names belong together, a journal in the
staging folder says what shall stand where, by inode; a kill between two renames leaves it, and whoever claims
the destination next finishes what it says. Staging folders without a journal are removed then: their writers
are dead, for a living one would hold the claim.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgewise.runtime.system.claims import claim, real, writable_beside
from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.system.interruption import deferred_interrupt
from edgewise.runtime.system.ownership import STAGING, is_regular

_JOURNAL = "journal.json"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


class Move(msgspec.Struct, frozen=True):
    """What shall stand under a name: the inode that comes, and the one that stood there; 0 is none.

    The name is one of the destination's files; without a name it is the destination itself.
    """

    name: str
    new: int
    old: int


@dataclass(frozen=True)
class Staging:
    """Where a destination is made; the caller holds its claim.

    Attributes:
        path: The destination.
        folder: Hidden, beside the destination, or inside where nothing can be renamed to it, such as a mount.
    """

    path: Path
    folder: Path

    @property
    def content(self) -> Path:
        """A folder, made by the caller, of what will be published."""
        return self.folder / "new"

    @property
    def beside(self) -> bool:
        """Whether the content can become the destination as a whole."""
        return self.folder.parent == self.path.parent

    def publish(self) -> None:
        """Let the content become the destination, in exchange for what stands there."""
        self._publish([Move("", _inode(self.content), _inode(self.path))])

    def publish_files(self, names: Collection[str], gone: Collection[str] = ()) -> None:
        """Let entries of the content enter the destination together, in exchange for their namesakes.

        Args:
            names: Of entries, in the order in which they get their names.
            gone: Names in the destination that go at the same time.
        """
        moves = [Move(name, _inode(self.content / name), _inode(self.path / name)) for name in names]
        self._publish([*moves, *(Move(name, 0, _inode(self.path / name)) for name in gone)])

    def _publish(self, moves: list[Move]) -> None:
        for place, folders, files in os.walk(self.content):
            for name in (*folders, *files):
                flush(Path(place, name))
        flush(self.content)
        journal = self.folder / _JOURNAL
        with deferred_interrupt():
            unfinished = self.folder / f"{_JOURNAL}.part"
            unfinished.write_bytes(msgspec.json.encode(moves))
            flush(unfinished)
            os.rename(unfinished, journal)
            flush(self.folder)
            try:
                self.finish(moves)
            except OSError:
                if all(_inode(self._place(move)) == move.old for move in moves):
                    journal.unlink()
                raise

    def finish(self, moves: list[Move]) -> None:
        """Do the moves that are not done; what somebody else has put under a name since stays.

        Of several names first all old ones go and then all new ones come, so that no reader sees both.
        """
        if len(moves) > 1 or not self._exchange(moves[0]):
            for number, move in enumerate(moves):
                if move.old and _inode(self._place(move)) == move.old:
                    os.rename(self._place(move), self.folder / f"old-{number}")
            for move in moves:
                if move.new and not _inode(self._place(move)):
                    os.rename(self.content / move.name, self._place(move))
        flush(self.path if moves[0].name else self.path.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def journal(self) -> list[Move] | None:
        """What a killed writer had begun; None where it had not begun, or the file is not from us."""
        try:
            moves = msgspec.json.decode((self.folder / _JOURNAL).read_bytes(), type=list[Move])
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        names = {move.name for move in moves}
        plain = all("/" not in name and name not in (".", "..") for name in names)
        whole = "" not in names or (self.beside and len(moves) == 1)
        return moves if moves and plain and whole else None

    def _exchange(self, move: Move) -> bool:
        final = self._place(move)
        both = move.old and move.new and _inode(final) == move.old
        return bool(both) and exchange(self.content / move.name, final)

    def _place(self, move: Move) -> Path:
        return self.path / move.name if move.name else self.path


@contextmanager
def staging_for(path: Path) -> Generator[Staging]:
    """Make a staging folder for a destination; what is not published when the block ends goes."""
    path = real(path)
    folder, prefix = (path.parent, hidden(path)) if writable_beside(path) else (path, STAGING)
    staging = Staging(path, Path(tempfile.mkdtemp(dir=folder, prefix=prefix)))
    try:
        yield staging
    finally:
        if staging.journal() is None:
            shutil.rmtree(staging.folder, ignore_errors=True)


@contextmanager
def writing(path: Path, *, waiting: Callable[[str], None] | None = None) -> Generator[None]:
    """Claim a file or folder (see `claim`), and first finish or remove what dead writers of it left.

    Raises:
        EdgewiseError: Somebody else writes it, or what a kill interrupted cannot be finished.
    """
    with claim(path, waiting=waiting) as first:
        if first:
            _sweep(real(path))
        yield


def _sweep(path: Path) -> None:
    for left in list(_leftovers(path)):
        if is_regular(left):
            left.unlink()
            continue
        staging = Staging(path, left)
        moves = staging.journal()
        if moves is None:
            shutil.rmtree(left, ignore_errors=True)
            continue
        try:
            staging.finish(moves)
        except OSError as error:
            raise EdgewiseError(
                f"what a killed process was about to publish cannot be finished: {error.strerror}",
                where=str(left),
                hint="mend the cause, or move that folder away",
            ) from None


def restore(path: Path) -> None:
    """For a reader that does not find `path`: finish what a dead writer had begun."""
    with suppress(EdgewiseError, OSError):
        if any(True for _ in _leftovers(real(path))):
            with writing(path):
                pass


def hidden(path: Path) -> str:
    """How the names begin of what `writing` takes for a dead writer's of `path`."""
    return f".{path.name}{STAGING}"


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return 0


def _leftovers(path: Path) -> Iterator[Path]:
    """Staging folders and files of `path`, beside it and inside."""
    for folder, prefix in ((path.parent, hidden(path)), (path, STAGING)):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                ours = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
                if ours and entry.name.startswith(prefix):
                    yield Path(entry.path)
