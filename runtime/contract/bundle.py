"""A bundle: a folder whose manifest lists every file that may be opened, by size and SHA-256.

Trust starts at `manifest.json`; everything else is read only when it is listed there, is a regular file
inside the folder (no link on the way), and has the listed size and hash. `read` gives the very bytes that
were hashed, so a file exchanged between check and use changes nothing. Threats considered: `docs/runtime.md`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from edgewise.runtime.contract.encoding import decode
from edgewise.runtime.contract.external_data import refuse_external_data
from edgewise.runtime.contract.manifest import FileEntry, Graph, GraphFile, Manifest, Precision, Target
from edgewise.runtime.system.atomic import sha256_of
from edgewise.runtime.system.errors import BackendError, BundleError, ManifestError
from edgewise.runtime.system.publishing import restore

MANIFEST = "manifest.json"

_verified: set[tuple[str, int, int, str]] = set()
"""(path, modification time, size, hash) of every file this process has hashed once."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `path` is the folder as an absolute path."""

    path: Path
    manifest: Manifest
    _entries: dict[str, FileEntry] = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read and check the manifest of a bundle folder; the other files are checked when they are used.

        Raises:
            BundleError: No such folder, or not a bundle.
            ManifestError: The manifest is broken or of a newer format.
        """
        folder = Path(path).expanduser().absolute()
        manifest_path = folder / MANIFEST
        if not folder.exists():
            restore(folder)
        if not folder.exists():
            raise BundleError("no such bundle", where=str(folder), hint="check the path")
        if not folder.is_dir():
            raise BundleError("not a bundle, which is a folder", where=str(folder), hint="pass the folder")
        if not manifest_path.exists():
            raise BundleError(
                f"not a bundle: it has no {MANIFEST}",
                where=str(folder),
                hint="pass the folder that `edgewise export` wrote",
            )
        data = _read_regular(manifest_path, MANIFEST)
        try:
            manifest = decode(data)
        except ManifestError as error:
            raise ManifestError(
                error.what, where=error.where or str(manifest_path), hint=error.hint
            ) from None
        return cls(folder, manifest, {entry.path: entry for entry in manifest.files})

    def file(self, relative: str) -> Path:
        """The absolute path of a listed file, hashed once per process, path, modification time and size.

        For readers that need a path; prefer `read`, which leaves no time between check and use.

        Raises:
            BundleError: Not listed, missing, a link, outside the folder, or changed.
        """
        entry = self._entry(relative)
        path = _locate(self.path, relative)
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size, entry.sha256)
        if key not in _verified:
            _require_unchanged(entry, path, status.st_size, partial(sha256_of, path))
            _verified.add(key)
        return path

    def read(self, relative: str) -> bytes:
        """The content of a listed file; exactly the returned bytes have the listed hash.

        Raises:
            BundleError: Not listed, missing, a link, outside the folder, or changed.
        """
        entry = self._entry(relative)
        path = _locate(self.path, relative)
        data = _read_regular(path, relative)
        _require_unchanged(entry, path, len(data), lambda: hashlib.sha256(data).hexdigest())
        return data

    def model(self, relative: str) -> bytes:
        """The content of a listed ONNX model, which holds all of its weights itself.

        Raises:
            BundleError: As `read`, or it keeps tensors in other files, which nobody has hashed.
        """
        data = self.read(relative)
        refuse_external_data(data, str(self.path / relative))
        return data

    def verify(self) -> None:
        """Hash every listed file again, whether or not it was checked before.

        Raises:
            BundleError: The first file that is missing or changed.
        """
        for entry in self.manifest.files:
            path = _locate(self.path, entry.path)
            _require_unchanged(entry, path, path.stat().st_size, partial(sha256_of, path))

    def graph(self, name: str) -> Graph:
        """A graph of the manifest; BundleError lists the known names."""
        try:
            return self.manifest.graphs[name]
        except KeyError:
            raise BundleError(
                f"the bundle has no graph {name!r}",
                where=str(self.path),
                hint=f"its graphs are {sorted(self.manifest.graphs)}",
            ) from None

    def graph_entry(
        self, graph: str, target: Target, precision: Precision, release: str | None = None
    ) -> GraphFile:
        """The lowered file of a graph as the manifest names it.

        Args:
            release: Of the target's runtime; the first file where it is left out, which the newest run.

        Raises:
            BackendError: The bundle has none for this target, precision and release; the hint lists what it
                has.
        """
        files = self.graph(graph).files
        fitting = [file for file in files if file.target is target and file.precision is precision]
        for file in fitting:
            if release is None or major_minor(file.since) <= major_minor(release):
                return file
        if fitting:
            raise BackendError(
                f"the {precision.value} model of graph {graph!r} needs {target.value} {fitting[0].since}, "
                f"{release} is installed",
                where=str(self.path),
                hint=f"update {target.value}, or export the bundle again: it gets a form for older releases",
            )
        have = sorted({f"{file.target.value} {file.precision.value}" for file in files})
        raise BackendError(
            f"the bundle has no {precision.value} model of graph {graph!r} for {target.value}",
            where=str(self.path),
            hint=f"it has {', '.join(have) if have else 'no lowered model at all'}; "
            "choose one of them, or export again with that precision",
        )

    def graph_bytes(
        self, graph: str, target: Target, precision: Precision, release: str | None = None
    ) -> bytes:
        """The checked content of a graph's lowered file; see `graph_entry` and `model`."""
        return self.model(self.graph_entry(graph, target, precision, release).path)

    def _entry(self, relative: str) -> FileEntry:
        try:
            return self._entries[relative]
        except KeyError:
            raise BundleError(
                f"{relative!r} is not listed in the manifest, so it is not opened",
                where=str(self.path),
                hint="export the bundle again",
            ) from None


def major_minor(release: str) -> list[int]:
    """`1.23.2` -> [1, 23], to compare releases; [] of an empty text."""
    return [int(number) for number in re.findall(r"\d+", release)[:2]]


def _locate(root: Path, relative: str) -> Path:
    """The path of a listed file, none of whose components below `root` is a link."""
    path = root
    hint = "copy the bundle again from where it was exported"
    try:
        for part in relative.split("/"):
            if part in ("", ".", ".."):
                raise BundleError(f"{relative!r} is not a plain relative path", where=str(root), hint=hint)
            path = path / part
            if stat.S_ISLNK(path.lstat().st_mode):
                raise BundleError(
                    f"{relative!r} leads through a link; a bundle holds plain files",
                    where=str(path),
                    hint=hint,
                )
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BundleError(f"{relative!r} is not a file", where=str(path), hint=hint)
    except FileNotFoundError:
        raise BundleError(f"{relative!r} is listed but missing", where=str(path), hint=hint) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{relative!r} cannot be opened: {error}", where=str(root), hint=hint) from None
    return path


def _read_regular(path: Path, relative: str) -> bytes:
    """Read a file without following a link in its last component, and without waiting on a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError(f"{relative!r} is not a plain file", where=str(path))
            return stream.read()
    except OSError as error:
        raise BundleError(
            f"{relative!r} cannot be read: {error.strerror}",
            where=str(path),
            hint="copy the bundle again; a bundle holds plain files, no links",
        ) from None


def _require_unchanged(entry: FileEntry, path: Path, size: int, digest: Callable[[], str]) -> None:
    """Raise BundleError unless size and hash are the listed ones; a wrong size spares the hashing."""
    if size != entry.size:
        raise _changed(entry, path, f"{size} bytes instead of {entry.size}")
    if digest() != entry.sha256:
        raise _changed(entry, path, "another SHA-256")


def _changed(entry: FileEntry, path: Path, how: str) -> BundleError:
    return BundleError(
        f"{entry.path!r} is not the file that was exported: {how}",
        where=str(path),
        hint="copy the bundle again from where it was exported, or export it again",
    )
