"""Whether the parts of a manifest fit together."""

from __future__ import annotations

from collections.abc import Iterable

from edgewise.runtime.contract.manifest import FORMAT_VERSION, Manifest
from edgewise.runtime.contract.postprocessing import Postprocess
from edgewise.runtime.contract.schedules import EveryFrame
from edgewise.runtime.system.errors import ManifestError


def check(manifest: Manifest) -> None:
    """Raise ManifestError where the parts of a manifest do not fit together."""
    for problem in _problems(manifest):
        raise ManifestError(
            problem, where=manifest.name, hint="correct the manifest that was passed to export"
        )


def _problems(manifest: Manifest) -> Iterable[str]:
    if manifest.format != FORMAT_VERSION:
        yield f"format {manifest.format} is not {FORMAT_VERSION}"
    if not manifest.graphs:
        yield "no graph is declared"
    for name, graph in manifest.graphs.items():
        tensors = [tensor.name for tensor in (*graph.inputs, *graph.outputs, *graph.probes)]
        for tensor in sorted({tensor for tensor in tensors if tensors.count(tensor) > 1}):
            yield f"graph {name!r} declares the tensor {tensor!r} twice"
    yield from _schedule_problems(manifest)
    yield from _state_problems(manifest)
    yield from _postprocess_problems(manifest)
    yield from _file_problems(manifest)
    layout = manifest.keypoints
    if layout is not None:
        if layout.sigmas and len(layout.sigmas) != len(layout.names):
            yield f"{len(layout.sigmas)} keypoint sigmas for {len(layout.names)} names"
        for pair in (*layout.flip_pairs, *layout.limbs):
            if not all(0 <= index < len(layout.names) for index in pair):
                yield f"keypoint pair {pair} is outside the {len(layout.names)} names"
    ids = [label.id for label in manifest.classes]
    if len(set(ids)) != len(ids):
        yield "two classes share an id"
    precisions = [budget.precision for budget in manifest.budgets]
    if len(set(precisions)) != len(precisions):
        yield "two budgets are stated for one precision"


def _schedule_problems(manifest: Manifest) -> Iterable[str]:
    schedule = manifest.schedule
    wanted = (schedule.graph,) if isinstance(schedule, EveryFrame) else (schedule.key, schedule.nonkey)
    for graph in wanted:
        if graph not in manifest.graphs:
            yield f"the schedule runs graph {graph!r}, which is not declared"


def _state_problems(manifest: Manifest) -> Iterable[str]:
    outputs = {
        f"{name}.{spec.name}": spec for name, graph in manifest.graphs.items() for spec in graph.outputs
    }
    inputs = {f"{name}.{spec.name}": spec for name, graph in manifest.graphs.items() for spec in graph.inputs}
    for state in manifest.state:
        places = [(state.source, outputs, "output"), *((sink, inputs, "input") for sink in state.sinks)]
        for address, known, kind in places:
            spec = known.get(address)
            if spec is None:
                yield f"state {state.name!r} names {address!r}, which is no graph's {kind}"
            elif (spec.dtype, spec.shape) != (state.spec.dtype, state.spec.shape):
                yield f"state {state.name!r} and {address!r} differ in dtype or shape"


_NOT_OUTPUTS = {"decoding", "by", "kind"}


def output_names(postprocess: Postprocess) -> tuple[str, ...]:
    """The graph outputs that a postprocessing reads."""
    return tuple(
        value
        for field in postprocess.__struct_fields__
        if field not in _NOT_OUTPUTS and isinstance(value := getattr(postprocess, field), str)
    )


def _postprocess_problems(manifest: Manifest) -> Iterable[str]:
    declared = {spec.name for graph in manifest.graphs.values() for spec in graph.outputs}
    for name in output_names(manifest.postprocess):
        if name not in declared:
            yield f"postprocessing reads the output {name!r}, which no graph declares"


def _file_problems(manifest: Manifest) -> Iterable[str]:
    if not manifest.files:
        return
    listed = [entry.path for entry in manifest.files]
    for path in sorted({path for path in listed if listed.count(path) > 1}):
        yield f"the file {path!r} is listed twice"
    for path in listed:
        if path.startswith("/") or "\\" in path or ":" in path or ".." in path.split("/"):
            yield f"the file path {path!r} leaves the bundle folder"
    for path in referenced_files(manifest):
        if path not in listed:
            yield f"the file {path!r} is used but not listed"


def referenced_files(manifest: Manifest) -> tuple[str, ...]:
    """Every path that some part of the manifest points to."""
    paths: list[str] = []
    for graph in manifest.graphs.values():
        paths += [graph.canonical] if graph.canonical else []
        paths += [file.path for file in graph.files]
    if manifest.calibration is not None:
        paths.append(manifest.calibration.table)
        paths += [manifest.calibration.tensorrt_cache] if manifest.calibration.tensorrt_cache else []
    for golden in manifest.goldens:
        paths += [golden.image, golden.tensors, golden.result]
    return tuple(paths)
