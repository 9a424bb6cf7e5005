"""Write a bundle whole, or add files to one so that it is valid at every moment.

A new bundle is staged beside its destination and renamed. An update writes its files under names that the old
manifest does not use, then replaces the manifest, then removes what no manifest lists: a kill at any point
leaves the old bundle or the new one. A bundle has one writer at a time: whoever reads it to change it claims
its folder before (`writing` of `runtime/system/publishing.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from edgewise.runtime.contract.bundle import MANIFEST, Bundle
from edgewise.runtime.contract.check import referenced_files
from edgewise.runtime.contract.encoding import encode
from edgewise.runtime.contract.manifest import FileEntry, Manifest
from edgewise.runtime.system.atomic import sha256_of, staged_folder, write_bytes
from edgewise.runtime.system.errors import ExportError
from edgewise.runtime.system.ownership import held_files, is_regular, refuse_existing
from edgewise.runtime.system.publishing import writing

UPDATED_FOLDERS = ("models", "calibration")
"""The folders of a bundle that an update writes to."""

Content = bytes | Path
"""A file's bytes, or a file to copy."""


def write_bundle(
    destination: Path, manifest: Manifest, files: Mapping[str, Content], *, replace: bool = False
) -> Bundle:
    """Write a new bundle; `manifest.files` is filled in from `files`.

    Args:
        destination: The folder that will appear.
        files: Path inside the bundle (forward slashes) -> content.
        replace: Exchange an existing bundle at `destination` for the new one.

    Raises:
        EdgewiseError: `destination` is there already and `replace` is not set, or it holds more than a
            bundle, or somebody else writes it.
        ManifestError: The manifest does not fit together, or points to a file that is not in `files`.
    """
    with staged_folder(destination, replace=replace, listed=bundle_files) as folder:
        entries = []
        for path, content in files.items():
            _write(folder / path, content)
            entries.append(_entry(folder, path))
        complete = _with_files(manifest, entries)
        (folder / MANIFEST).write_bytes(encode(complete))
    return Bundle.open(destination)


@contextmanager
def claim_destination(destination: Path, *, replace: bool) -> Generator[None]:
    """Be the only writer of a bundle inside the block, and know before long work that it can be written.

    Raises:
        EdgewiseError: The destination exists and `replace` is not set, or holds more than a bundle; or
            somebody else writes it.
    """
    with writing(destination):
        refuse_existing(destination, replace=replace, listed=bundle_files)
        yield


class _Listed(msgspec.Struct):
    path: str


class _AnyManifest(msgspec.Struct):
    """As much of a manifest of whatever format as says that a folder is a bundle."""

    writer: str
    graphs: dict[str, msgspec.Raw]
    files: list[_Listed]


def bundle_files(folder: Path) -> frozenset[str] | None:
    """The files of a bundle, and what a killed update left in its own folders; None where it is no bundle."""
    if not is_regular(folder / MANIFEST):
        return None
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_AnyManifest)
    except (msgspec.MsgspecError, RecursionError):
        return None
    own = (name for name in held_files(folder) if name.partition("/")[0] in UPDATED_FOLDERS)
    return frozenset({MANIFEST, *(file.path for file in manifest.files), *own})


def place(bundle: Bundle, path: str, data: bytes) -> str:
    """The name under which `data` can join a bundle: `path`, unless the bundle uses that for other bytes.

    Then a part of the content's hash joins the name, so that the old file stays until the manifest changes.
    """
    digest = hashlib.sha256(data).hexdigest()
    used = {entry.path: entry.sha256 for entry in bundle.manifest.files}
    if used.get(path, digest) == digest:
        return path
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{pure.stem}-{digest[:8]}{pure.suffix}"))


def update_bundle(bundle: Bundle, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Add files to a bundle and exchange its manifest; files that `manifest` no longer uses are removed.

    Args:
        files: New files, named by `place`.
        manifest: The new manifest; `manifest.files` is filled in. Files under `source/` stay.

    Raises:
        ExportError: A new file would overwrite one that the present manifest lists, or the bundle has changed
            since it was opened.
        EdgewiseError: Somebody else writes the bundle.
        ManifestError: The manifest does not fit together, or points to a file that is not there.
    """
    with writing(bundle.path):
        if Bundle.open(bundle.path).manifest != bundle.manifest:
            raise ExportError(
                "somebody else has changed the bundle since it was opened",
                where=str(bundle.path),
                hint="do it again",
            )
        return _update(bundle, manifest, files)


def _update(bundle: Bundle, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    used = {entry.path: entry for entry in bundle.manifest.files}
    for path, data in files.items():
        if path in used and used[path].sha256 != hashlib.sha256(data).hexdigest():
            raise ExportError(
                "the file is in use by the present manifest", where=path, hint="name it by `place`"
            )
    wanted = dict.fromkeys(
        [*referenced_files(manifest), *(path for path in used if path.startswith("source/"))]
    )
    written: list[Path] = []
    entries: list[FileEntry] = []
    try:
        for path in wanted:
            if path in files:
                target = bundle.path / path
                if path not in used:
                    written.append(target)
                write_bytes(target, files[path])
                entries.append(_entry(bundle.path, path))
            elif path in used:
                bundle.file(path)
                entries.append(used[path])
        data = encode(_with_files(manifest, entries))
        write_bytes(bundle.path / MANIFEST, data)
    except BaseException:
        for target in written:
            target.unlink(missing_ok=True)
        raise
    remove_unlisted(bundle.path)
    return Bundle.open(bundle.path)


def remove_unlisted(folder: Path) -> None:
    """Remove files in `models/` and `calibration/` that no manifest lists, such as a killed update's.

    Whatever else a user has put into the bundle's folder stays.
    """
    listed = {entry.path for entry in Bundle.open(folder).manifest.files}
    for room in UPDATED_FOLDERS:
        for file in sorted((folder / room).rglob("*"), reverse=True):
            if file.is_dir() and not file.is_symlink():
                with contextlib.suppress(OSError):  # only empty folders go
                    file.rmdir()
            elif file.relative_to(folder).as_posix() not in listed:
                file.unlink()


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)


def _entry(folder: Path, path: str) -> FileEntry:
    file = folder / path
    return FileEntry(path=path, size=file.stat().st_size, sha256=sha256_of(file))


def _with_files(manifest: Manifest, entries: list[FileEntry]) -> Manifest:
    ordered = tuple(sorted(entries, key=lambda entry: entry.path))
    return msgspec.structs.replace(manifest, files=ordered)
