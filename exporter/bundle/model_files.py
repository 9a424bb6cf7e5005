"""Which file of a bundle holds which lowered graph; equal bytes are stored once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from edgewise.runtime.contract.manifest import GraphFile, Precision, Target


@dataclass(frozen=True)
class ModelFiles:
    """The manifest's entries for one graph, and the files that they point to."""

    entries: tuple[GraphFile, ...]
    files: Mapping[str, bytes]


def name_model_files(
    graph: str, lowered: Mapping[tuple[Target, Precision], Mapping[str, bytes]]
) -> ModelFiles:
    """Name the lowered files of one graph.

    A file that every target of a precision shares is `models/<precision>.onnx`; others are
    `models/<target>.<precision>.onnx`, after the first target that uses them. Where a target has files for
    older releases of its runtime too, those are `models/<target>-before-<release>.<precision>.onnx`, unless
    another target's file has the same bytes. Graphs other than `main` put their name in front.

    Args:
        lowered: The files of each target and precision by the oldest release that reads them, newest first
            (`GraphFile.since`).
    """
    entries: list[GraphFile] = []
    files: dict[str, bytes] = {}
    prefix = "" if graph == "main" else f"{graph}."
    for precision in Precision:
        forms = {target: forms for (target, own), forms in lowered.items() if own is precision}
        newest = {target: next(iter(own.values())) for target, own in forms.items()}
        everywhere = len(set(newest.values())) == 1
        named: dict[bytes, str] = {}
        for target, data in newest.items():
            owner = "" if everywhere else f"{target.value}."
            named.setdefault(data, f"models/{prefix}{owner}{precision.value}.onnx")
        for target, own in forms.items():
            for newer, since in pairwise(own):
                path = f"models/{prefix}{target.value}-before-{newer}.{precision.value}.onnx"
                named.setdefault(own[since], path)
            entries += [
                GraphFile(target=target, precision=precision, path=named[data], since=since)
                for since, data in own.items()
            ]
        files |= {path: data for data, path in named.items()}
    return ModelFiles(tuple(entries), files)
