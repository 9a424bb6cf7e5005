"""Which file of a bundle holds which lowered graph; equal bytes are stored once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgewise.runtime.contract.manifest import GraphFile, Precision, Target
from edgewise.runtime.engines.onnxruntime import DEFORM_CONV_SINCE


@dataclass(frozen=True)
class ModelFiles:
    """The manifest's entries for one graph, and the files that they point to."""

    entries: tuple[GraphFile, ...]
    files: Mapping[str, bytes]


def name_model_files(
    graph: str,
    lowered: Mapping[tuple[Target, Precision], bytes],
    older: Mapping[Precision, bytes] = MappingProxyType({}),
) -> ModelFiles:
    """Name the lowered files of one graph.

    A file that every target of a precision shares is `models/<precision>.onnx`; others are
    `models/<target>.<precision>.onnx`, after the first target that uses them. Graphs other than `main` put
    their name in front. `older` are forms for releases of ONNX Runtime that lack an operator; where another
    target's file has the same bytes, it is that file, else `models/onnxruntime-older.<precision>.onnx`.
    """
    entries: list[GraphFile] = []
    files: dict[str, bytes] = {}
    prefix = "" if graph == "main" else f"{graph}."
    for precision in Precision:
        contents = {target: data for (target, own), data in lowered.items() if own is precision}
        everywhere = len(set(contents.values())) == 1
        named: dict[bytes, str] = {}
        for target, data in contents.items():
            owner = "" if everywhere else f"{target.value}."
            path = named.setdefault(data, f"models/{prefix}{owner}{precision.value}.onnx")
            files[path] = data
            two = target is Target.ONNXRUNTIME and precision in older
            since = DEFORM_CONV_SINCE if two else ""
            entries.append(GraphFile(target=target, precision=precision, path=path, since=since))
        if precision in older:
            data = older[precision]
            path = named.get(data, f"models/{prefix}onnxruntime-older.{precision.value}.onnx")
            files[path] = data
            entries.append(GraphFile(target=Target.ONNXRUNTIME, precision=precision, path=path))
    return ModelFiles(tuple(entries), files)
