"""Files that belong together and appear together in a folder, which may hold other things.

A set that is all a folder holds is exchanged as that folder, in one step. Beside files of somebody else, in a
mount or in the working directory its files get their names one after the other, and the next writer finishes
that where a kill came between (`publishing.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from edgewise.runtime.system.claims import real
from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.system.ownership import (
    MARKER,
    held_files,
    is_regular,
    is_taken,
    listed_files,
    not_ours,
    strangers,
    write_marker,
)
from edgewise.runtime.system.publishing import staging_for, writing


class OutputSet:
    """The only writer of a folder's set of files, until they are published or discarded.

    Args:
        folder: Made when the set is published, where it does not exist.
        names: Final names of the files and folders that may be written.
        replace: Allow that some of them exist already: plain files, and folders of an earlier set.
        hint: What to do where that is not allowed.

    Raises:
        EdgewiseError: One of them exists and `replace` is not set, or is not ours to replace; somebody else
            writes the folder; or it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        replace: bool = False,
        hint: str = "choose another, or pass --force",
    ) -> None:
        self.folder = folder
        self._path = real(folder)
        self._names = tuple(names)
        self._replace = replace
        if os.path.lexists(folder) and not folder.is_dir():
            raise EdgewiseError(
                "the output folder cannot be written: something else has its name",
                where=str(folder),
                hint="choose another folder",
            )
        with ExitStack() as held:
            held.enter_context(writing(self._path))
            self._refuse_present(hint)
            self._staging = held.enter_context(staging_for(self._path))
            self._staging.content.mkdir()
            self._held = held.pop_all()

    def path(self, name: str) -> Path:
        """Where a file is written until it is published."""
        if name not in self._names:
            raise ValueError(f"{name!r} was not announced")
        return self._staging.content / name

    def publish(self, *, partial: bool = False) -> list[Path]:
        """Give what was written its names; `partial` puts `.partial` before the suffix.

        A complete set takes the place of the earlier one, whatever that held; a partial one leaves it.
        """
        content, path = self._staging.content, self._path
        names = [name for name in self._names if os.path.lexists(content / name)]
        if partial:
            for name in names:
                os.rename(content / name, content / partial_name(name))
            names = [partial_name(name) for name in names]
        with self._held:
            new = held_files(content)
            if self._may_exchange(partial=partial):
                write_marker(content, new)
                if path.is_dir():
                    shutil.copystat(path, content)
                self._staging.publish()
            else:
                earlier = [] if not self._replace else self._earlier(partial=partial)
                gone = [name for name in earlier if name not in names]
                kept = [
                    file
                    for file in listed_files(path) or ()
                    if file.partition("/")[0] not in (*gone, *names, MARKER)
                ]
                write_marker(content, [*kept, *new])
                path.mkdir(exist_ok=True)
                self._staging.publish_files([*names, MARKER], gone)
        return [self.folder / name for name in names]

    def discard(self) -> None:
        """Remove everything that was written and not published."""
        self._held.close()

    def __enter__(self) -> OutputSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _refuse_present(self, hint: str) -> None:
        both = [variant for name in self._names for variant in (name, partial_name(name))]
        present = [name for name in both if os.path.lexists(self._path / name)]
        if present and not self._replace:
            raise EdgewiseError(
                f"the output folder already holds {', '.join(present)}",
                where=str(self.folder),
                hint=hint,
            )
        own = listed_files(self._path) or ()
        for name in present:
            there = self._path / name
            if there.is_dir() and not there.is_symlink():
                foreign = strangers(there, lambda folder, name=name: _below(own, name))
                if foreign:
                    raise EdgewiseError(
                        f"the folder {name} is in the way, and --force does not replace it: it holds files "
                        f"that edgewise did not write there, such as {foreign[0]}",
                        where=str(there),
                        hint="choose another output folder",
                    )
            elif not is_regular(there):
                raise not_ours(there)

    def _may_exchange(self, *, partial: bool) -> bool:
        """Whether the folder can be exchanged as a whole without losing anything."""
        if not self._staging.beside or self._path == Path.cwd():
            return False
        return not is_taken(self._path) or (self._replace and not partial and not strangers(self._path))

    def _earlier(self, *, partial: bool) -> list[str]:
        """Names of the earlier set that hold nothing else; of its partial files alone where `partial`."""
        own = listed_files(self._path) or ()
        names = sorted({file.partition("/")[0] for file in own} - {MARKER})
        return [
            name
            for name in names
            if (not partial or ".partial" in Path(name).suffixes or name.endswith(".partial"))
            and not strangers(self._path / name, lambda folder, name=name: _below(own, name))
        ]


def partial_name(name: str) -> str:
    """`results.partial.json` of `results.json`."""
    path = Path(name)
    return f"{path.stem}.partial{path.suffix}"


def _below(files: Sequence[str] | frozenset[str], name: str) -> list[str]:
    return [file.removeprefix(f"{name}/") for file in files if file.startswith(f"{name}/")]
