"""What edgewise may replace: nothing that it does not know.

A folder that edgewise fills carries a list of its files, `.edgewise.json`; a bundle's list is its manifest.
With `--force` such a folder is replaced where it holds nothing else, and so is a plain file that was named as
the output. Links, devices, pipes, sockets and folders of anything else stay.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from edgewise.runtime.system.errors import EdgewiseError

MARKER = ".edgewise.json"
STAGING, LOCK = ".edgewise-", ".edgewise.lock"
"""How the hidden names go on, or begin, that exist while something is written."""
_HIDDEN = re.compile(rf"/(\.[^/]+)?({re.escape(STAGING)}|{re.escape(LOCK)}$)")
_NAMED = 3
"""Files of somebody else that an error names."""

Listed = Callable[[Path], Collection[str] | None]
"""The files, relative and with forward slashes, that a folder lists as ours; None where it lists nothing."""


def held_files(folder: Path) -> list[str]:
    """Everything below a folder that is no folder, relative and sorted; links are not followed."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [Path(place, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def write_marker(folder: Path, files: Collection[str]) -> None:
    """Write the list of a folder's own files."""
    content = {"writer": "edgewise", "files": sorted({*files, MARKER})}
    (folder / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")


def listed_files(folder: Path) -> frozenset[str] | None:
    """What the marker of a folder lists; None where it has none."""
    marker = folder / MARKER
    try:
        content: Any = json.loads(marker.read_bytes()) if is_regular(marker) else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("writer") != "edgewise":
        return None
    files = content.get("files")
    return frozenset(name for name in files if isinstance(name, str)) if isinstance(files, list) else None


def strangers(folder: Path, listed: Listed = listed_files) -> list[str]:
    """Files in a folder that edgewise does not know; all of them where the folder is not ours."""
    own = listed(folder) or ()
    return [name for name in held_files(folder) if name not in own and not _HIDDEN.search(f"/{name}")]


def is_regular(path: Path) -> bool:
    """Whether a plain file, and no link to one, stands there."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_taken(path: Path) -> bool:
    """Whether anything but an empty folder stands there; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        return any(not _HIDDEN.search(f"/{entry.name}") for entry in path.iterdir())
    return os.path.lexists(path)


def refuse_existing(path: Path, *, replace: bool, listed: Listed = listed_files) -> None:
    """Raise where making `path` would lose what is there; call it before long work starts.

    Args:
        replace: Allow a plain file, and a folder that holds nothing but what it lists.
        listed: How such a folder says what is ours.
    """
    if not is_taken(path):
        return
    if path.is_dir() and not path.is_symlink():
        foreign = strangers(path, listed)
        if foreign:
            more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
            raise EdgewiseError(
                "the destination exists already, and --force does not replace it: it holds files that "
                f"edgewise did not write there ({', '.join(foreign[:_NAMED])}{more})",
                where=str(path),
                hint="choose another folder",
            )
    elif not is_regular(path):
        raise not_ours(path)
    if not replace:
        raise EdgewiseError(
            "the destination exists already", where=str(path), hint="choose another, or pass --force"
        )


def refuse_existing_file(path: Path, *, replace: bool) -> None:
    """`refuse_existing` for an output that is a file: only a plain file may be replaced, no folder."""
    if os.path.lexists(path) and not is_regular(path):
        raise not_ours(path)
    refuse_existing(path, replace=replace)


def not_ours(path: Path) -> EdgewiseError:
    """The error for what is never replaced."""
    kinds = {
        stat.S_IFLNK: "a link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    kind = kinds.get(stat.S_IFMT(path.lstat().st_mode), "a device")
    return EdgewiseError(
        f"the destination exists already and is {kind}, which edgewise never replaces",
        where=str(path),
        hint="choose another",
    )
