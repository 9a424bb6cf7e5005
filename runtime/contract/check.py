"""Whether the parts of a manifest fit together."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgewise.runtime.contract.manifest import FORMAT_VERSION, DType, Graph, Manifest, TensorSpec
from edgewise.runtime.system.errors import ManifestError

MOST_ELEMENTS = 1 << 31
"""Of one tensor: what 32-bit indices reach, in ONNX Runtime and in TensorRT."""
VALUES = {
    DType.UINT8: (0, 255),
    DType.INT8: (-128, 127),
    DType.INT32: (-(1 << 31), (1 << 31) - 1),
    DType.INT64: (-(1 << 53), 1 << 53),
    DType.BOOL: (0, 1),
}
"""What a state of integers can begin at; in JSON it is a float."""


def check(manifest: Manifest) -> None:
    """Raise ManifestError where the parts of a manifest do not fit together."""
    for problem in _problems(manifest):
        raise ManifestError(
            problem, where=manifest.name, hint="correct the manifest that was passed to export"
        )


def _nan_sums_problems(name: str, graph: Graph) -> Iterable[str]:
    if graph.nan_sums is None:
        return
    if graph.nan_sums.name in {spec.name for spec in (*graph.inputs, *graph.outputs, *graph.probes)}:
        yield f"graph {name!r} declares the tensor {graph.nan_sums.name!r} twice"
    floats = {spec.name for spec in graph.outputs if spec.dtype is DType.FLOAT32}
    for output in graph.nan_sums.of:
        if output not in floats:
            yield f"the sums of graph {name!r} are of {output!r}, which is no float32 output of it"


def _problems(manifest: Manifest) -> Iterable[str]:
    if manifest.format != FORMAT_VERSION:
        yield f"format {manifest.format} is not {FORMAT_VERSION}"
    if not manifest.graphs:
        yield "no graph is declared"
    for name, graph in manifest.graphs.items():
        tensors = [tensor.name for tensor in (*graph.inputs, *graph.outputs, *graph.probes)]
        for tensor in sorted({tensor for tensor in tensors if tensors.count(tensor) > 1}):
            yield f"graph {name!r} declares the tensor {tensor!r} twice"
        yield from _nan_sums_problems(name, graph)
        for spec in (*graph.inputs, *graph.outputs, *graph.probes):
            if math.prod(spec.shape) * graph.batch > MOST_ELEMENTS:
                yield f"the tensor {spec.name!r} of graph {name!r} has more than {MOST_ELEMENTS} elements"
            if graph.batch > 1 and spec.shape[:1] != (1,):
                yield f"graph {name!r} takes {graph.batch} looks, {spec.name!r} has no first axis of 1"
        if graph.batch > 1 and manifest.state:
            yield f"graph {name!r} takes {graph.batch} frames, and state passes from each to the next"
    yield from _state_problems(manifest)
    yield from _schedule_problems(manifest)
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
    if manifest.calibration is not None:
        for graph in sorted(set(manifest.calibration.tables) - set(manifest.graphs)):
            yield f"a calibration table is for graph {graph!r}, which is not declared"
    precisions = [budget.precision for budget in manifest.budgets]
    if len(set(precisions)) != len(precisions):
        yield "two budgets are stated for one precision"


def _schedule_problems(manifest: Manifest) -> Iterable[str]:
    wanted = manifest.schedule.graphs
    for graph in wanted:
        if graph not in manifest.graphs:
            yield f"the schedule runs graph {graph!r}, which is not declared"
    for graph in manifest.graphs:
        if graph not in wanted:
            yield f"graph {graph!r} is declared, and the schedule never runs it"
    for graph in _run_graphs(manifest):
        images = _image_inputs(manifest, graph)
        if len(images) != 1:
            yield f"graph {graph!r} takes {len(images)} inputs besides state, {images}; it is fed one image"


def image_input(manifest: Manifest, graph: str) -> str:
    """The one input of a graph that no state tensor feeds, of a manifest that was checked."""
    (name,) = _image_inputs(manifest, graph)
    return name


def _image_inputs(manifest: Manifest, graph: str) -> list[str]:
    fed = {sink for state in manifest.state for sink in state.sinks}
    return [spec.name for spec in manifest.graphs[graph].inputs if f"{graph}.{spec.name}" not in fed]


def _run_graphs(manifest: Manifest) -> list[str]:
    return [graph for graph in manifest.schedule.graphs if graph in manifest.graphs]


def _state_problems(manifest: Manifest) -> Iterable[str]:
    outputs = {
        f"{name}.{spec.name}": spec for name, graph in manifest.graphs.items() for spec in graph.outputs
    }
    inputs = {f"{name}.{spec.name}": spec for name, graph in manifest.graphs.items() for spec in graph.inputs}
    if manifest.state and manifest.preprocess.needs_boxes:
        yield "state passes from frame to frame, which nothing here does for crops around boxes"
    for state in manifest.state:
        held = VALUES.get(state.spec.dtype)
        if held is not None and not held[0] <= state.initial_value <= held[1]:
            yield f"state {state.name!r} begins at {state.initial_value}, no {state.spec.dtype.value}"
        places = [(state.source, outputs, "output"), *((sink, inputs, "input") for sink in state.sinks)]
        for address, known, kind in places:
            spec = known.get(address)
            if spec is None:
                yield f"state {state.name!r} names {address!r}, which is no graph's {kind}"
            elif (spec.dtype, spec.shape) != (state.spec.dtype, state.spec.shape):
                yield f"state {state.name!r} and {address!r} differ in dtype or shape"


def _postprocess_problems(manifest: Manifest) -> Iterable[str]:
    yield from manifest.postprocess.problems(manifest)
    first: dict[str, TensorSpec] = {}
    for graph in _run_graphs(manifest):
        declared = {spec.name: spec for spec in manifest.graphs[graph].outputs}
        for name in manifest.postprocess.outputs:
            if name not in declared:
                yield f"postprocessing reads the output {name!r}, which graph {graph!r} does not declare"
                continue
            spec, other = declared[name], first.setdefault(name, declared[name])
            if (spec.dtype, spec.shape) != (other.dtype, other.shape):
                yield f"the output {name!r} of graph {graph!r} differs in dtype or shape from another graph's"


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
        paths += manifest.calibration.tables.values()
    for golden in manifest.goldens:
        for frame in golden.frames:
            paths += [frame.image, frame.tensors, frame.result]
    return tuple(paths)
