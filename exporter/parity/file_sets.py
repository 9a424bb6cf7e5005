"""The lowered files of a bundle as sets: one of every graph, for a target, a precision and its releases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgewise.runtime.contract.bundle import major_minor
from edgewise.runtime.contract.manifest import Graph, GraphFile, Manifest, Precision, Target
from edgewise.runtime.engines.onnxruntime import installed_release
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.errors import BackendError, MissingExtraError


@dataclass(frozen=True)
class FileSet:
    """Lowered files that run together.

    `before` is the release of the target's runtime for which another set is the right one; empty for the
    newest set.
    """

    target: Target
    precision: Precision
    files: Mapping[str, GraphFile]
    before: str = ""

    @property
    def paths(self) -> dict[str, str]:
        return {name: file.path for name, file in self.files.items()}

    def shares(self, other: FileSet) -> bool:
        """Whether both are the same files."""
        return self.paths == other.paths


def file_sets(manifest: Manifest) -> list[FileSet]:
    """What all graphs have files for: by rising compression, ONNX Runtime first, older releases last.

    Sets that the installed ONNX Runtime does not read are left out: it runs the next older one.
    """
    found: list[FileSet] = []
    for precision in Precision:
        newest: list[FileSet] = []
        older: list[FileSet] = []
        for target in sorted(Target, key=lambda target: target is not Target.ONNXRUNTIME):
            before = ""
            for since in _begins(manifest, target, precision):
                files = {
                    name: file
                    for name, graph in manifest.graphs.items()
                    for file in _for_release(graph, target, precision, since)
                }
                if len(files) == len(manifest.graphs):
                    (older if before else newest).append(FileSet(target, precision, files, before))
                before = since
        found += [*newest, *older]
    return found


def installed_set(sets: list[FileSet], target: Target, precision: Precision) -> FileSet:
    """The set that the installed release of a target reads; the newest where none is installed."""
    try:
        release = str(import_tensorrt(target, verb="parity").__version__)
    except (BackendError, MissingExtraError):
        release = None
    return [
        own
        for own in sets
        if (own.target, own.precision) == (target, precision)
        and (not own.before or (release is not None and major_minor(release) < major_minor(own.before)))
    ][-1]


def distinct(sets: list[FileSet]) -> list[FileSet]:
    """Each set of files once, the first of its targets."""
    return [own for place, own in enumerate(sets) if not any(own.shares(other) for other in sets[:place])]


def stage_name(own: FileSet, sets: list[FileSet]) -> str:
    """`int8` for the files of ONNX Runtime, `int8.tensorrt` for another target's own files, and
    `int8.tensorrt-before-10` for those of its older releases."""
    first = next(other for other in sets if own.shares(other))
    if first.target is Target.ONNXRUNTIME and not first.before:
        return first.precision.value
    return f"{first.precision.value}.{first.target.value}" + (
        f"-before-{first.before}" if first.before else ""
    )


def _begins(manifest: Manifest, target: Target, precision: Precision) -> list[str]:
    """The releases with which the files of a target begin, newest first."""
    begins = {
        file.since
        for graph in manifest.graphs.values()
        for file in graph.files
        if (file.target, file.precision) == (target, precision)
    }
    if target is Target.ONNXRUNTIME:
        begins = {since for since in begins if major_minor(since) <= major_minor(installed_release())}
    return sorted(begins, key=major_minor, reverse=True)


def _for_release(graph: Graph, target: Target, precision: Precision, release: str) -> list[GraphFile]:
    """The first file that a release reads; nothing where there is none."""
    fitting = [
        file
        for file in graph.files
        if (file.target, file.precision) == (target, precision)
        and major_minor(file.since) <= major_minor(release)
    ]
    return fitting[:1]
