"""Write a bundle whole, or add files to one so that it is valid at every moment.

A new bundle is staged beside its destination and renamed. An update writes its files under names that the old
manifest does not use, then replaces the manifest, then removes what no manifest lists: a kill at any point
leaves the old bundle or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from edgewise.runtime.contract.bundle import MANIFEST, Bundle
from edgewise.runtime.contract.check import referenced_files
from edgewise.runtime.contract.encoding import encode
from edgewise.runtime.contract.manifest import FileEntry, Manifest
from edgewise.runtime.system.atomic import refuse_existing, sha256_of, staged_file, staged_folder, write_bytes
from edgewise.runtime.system.errors import ExportError

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
        EdgewiseError: `destination` is there already and `replace` is not set.
        ExportError: `replace` would remove a folder that is no bundle.
        ManifestError: The manifest does not fit together, or points to a file that is not in `files`.
    """
    refuse_occupied(destination, replace=replace)
    with staged_folder(destination, replace=replace) as folder:
        entries = []
        for path, content in files.items():
            _write(folder / path, content)
            entries.append(_entry(folder, path))
        complete = _with_files(manifest, entries)
        (folder / MANIFEST).write_bytes(encode(complete))
    return Bundle.open(destination)


def refuse_occupied(destination: Path, *, replace: bool) -> None:
    """Raise where the bundle cannot be written, before long work starts.

    Raises:
        EdgewiseError: The destination exists and `replace` is not set.
        ExportError: The destination exists and is no bundle, so it is not replaced.
    """
    refuse_existing(destination, replace=replace)
    occupied = destination.is_file() or (destination.is_dir() and any(destination.iterdir()))
    if occupied and not (destination / MANIFEST).is_file():
        raise ExportError(
            "the destination is no bundle, so --force does not replace it",
            where=str(destination),
            hint="choose another folder",
        )


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
        ExportError: A new file would overwrite one that the present manifest lists.
        ManifestError: The manifest does not fit together, or points to a file that is not there.
    """
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
        with staged_file(path) as temporary, content.open("rb") as stream, temporary.open("wb") as copy:
            while piece := stream.read(1 << 20):
                copy.write(piece)
    else:
        path.write_bytes(content)


def _entry(folder: Path, path: str) -> FileEntry:
    file = folder / path
    return FileEntry(path=path, size=file.stat().st_size, sha256=sha256_of(file))


def _with_files(manifest: Manifest, entries: list[FileEntry]) -> Manifest:
    ordered = tuple(sorted(entries, key=lambda entry: entry.path))
    return msgspec.structs.replace(manifest, files=ordered)
