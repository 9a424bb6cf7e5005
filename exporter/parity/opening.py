"""Open every stage that a bundle has: what runs here, what failed to open, what cannot run and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise.exporter.parity.report import Status
from edgewise.exporter.parity.request import ParityRequest
from edgewise.exporter.parity.stages import (
    CANONICAL,
    EXPORTED_STAGE,
    TORCH,
    EngineStage,
    LoweredStage,
    OnnxStage,
    Stage,
    StageInfo,
    TorchStage,
)
from edgewise.exporter.way.export import CHECKPOINT, EXPORTED
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Graph, GraphFile, Precision, Target
from edgewise.runtime.contract.schedules import EveryFrame
from edgewise.runtime.engines.cache import EngineCache
from edgewise.runtime.engines.cuda import find_gpu
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.engines.opening import open_engine
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.errors import BackendError, CheckpointError, MissingExtraError, ParityError

if TYPE_CHECKING:
    from torch import nn

_NAMES = {
    Target.ONNXRUNTIME: "ONNX Runtime",
    Target.TENSORRT: "TensorRT",
    Target.TENSORRT_RTX: "TensorRT-RTX",
}


@dataclass(frozen=True)
class Opened:
    """A stage of the bundle's way; `stage` is None where `status` is not PASSED."""

    info: StageInfo
    stage: Stage | None
    status: Status = Status.PASSED
    reason: str = ""


def graph_of(bundle: Bundle) -> tuple[str, Graph]:
    """The one graph that parity runs.

    Raises:
        ParityError: Several graphs, state, or more inputs than one image.
    """
    manifest = bundle.manifest
    schedule = manifest.schedule
    if not isinstance(schedule, EveryFrame) or manifest.state or len(manifest.graphs) != 1:
        raise ParityError(
            "parity compares bundles of one graph without state",
            where=str(bundle.path),
            hint="run the self test",
        )
    graph = manifest.graphs[schedule.graph]
    if len(graph.inputs) != 1:
        raise ParityError(
            f"parity feeds one image, the graph has {len(graph.inputs)} inputs", where=str(bundle.path)
        )
    return schedule.graph, graph


def open_stages(bundle: Bundle, request: ParityRequest, stack: ExitStack) -> list[Opened]:
    """Open the stages in the order of the way; `stack` closes them.

    Raises:
        BundleError: A file of the bundle is missing or changed.
        CheckpointError: The checkpoint is missing, broken or not the one that was exported.
        ParityError: A source file is missing and torch was not left out on request.
    """
    name, graph = graph_of(bundle)
    opened: list[Opened] = []
    for info, opener in (
        *_workstation(bundle, request, graph),
        *_lowered(bundle, request, name, graph),
        *_engines(bundle, request, name, graph),
    ):
        entry = _try(info, opener)
        if entry.stage is not None:
            stack.callback(entry.stage.close)
        opened.append(entry)
    return opened


Opener = Callable[[StageInfo], "Stage | Opened"]


def _try(info: StageInfo, opener: Opener) -> Opened:
    try:
        found = opener(info)
    except (BackendError, ParityError) as error:
        reason = f"cannot be opened: {error.what}" + (f" ({error.where})" if error.where else "")
        return Opened(info, None, Status.FAILED, reason)
    return found if isinstance(found, Opened) else Opened(info, found)


# ---------------------------------------------------------------- torch, exported, canonical


def _workstation(bundle: Bundle, request: ParityRequest, graph: Graph) -> Iterator[tuple[StageInfo, Opener]]:
    listed = {entry.path for entry in bundle.manifest.files}
    before = None
    if not request.without_torch:
        if EXPORTED not in listed:
            raise ParityError(
                f"the bundle has no {EXPORTED}, so torch and its export cannot be compared",
                where=str(bundle.path),
                hint="take the bundle of the workstation (exported without --device-only), or pass "
                "--without-torch to take the canonical ONNX model as the reference",
            )
        module = torch_module(bundle, request)
        info = StageInfo(TORCH, "torch", Precision.FP32, None)
        yield info, lambda own: TorchStage(own, module, graph, threads=request.stage_threads)
        info = StageInfo(EXPORTED_STAGE, "exported ONNX", Precision.FP32, TORCH, EXPORTED)
        yield info, lambda own: OnnxStage(own, bundle.read(own.file), graph, threads=request.stage_threads)
        before = EXPORTED_STAGE
    if graph.canonical is None:
        raise ParityError(
            "the manifest names no canonical model", where=str(bundle.path), hint="export the bundle again"
        )
    info = StageInfo(CANONICAL, "canonical ONNX", Precision.FP32, before, graph.canonical)
    yield info, lambda own: OnnxStage(own, bundle.read(own.file), graph, threads=request.stage_threads)


def torch_module(bundle: Bundle, request: ParityRequest) -> nn.Module:
    """The deploy module that the bundle was exported from.

    Raises:
        ParityError: A bundle from outside the registry, and no module was given.
        CheckpointError: The checkpoint is missing or not the one that the provenance names.
    """
    if request.module is not None:
        return request.module
    provenance = bundle.manifest.provenance
    if not provenance.definition.startswith("registry:"):
        raise ParityError(
            f"the bundle was exported from {provenance.definition}, which is not in the registry",
            where=str(bundle.path),
            hint="pass the module through the Python API (ParityRequest.module), or pass --without-torch",
        )
    from edgewise.models.checkpoints.checkpoint import load_model

    path = request.checkpoint
    if path is None:
        if CHECKPOINT not in {entry.path for entry in bundle.manifest.files}:
            raise ParityError(
                f"the bundle has no {CHECKPOINT}",
                where=str(bundle.path),
                hint="pass the checkpoint with --checkpoint, or pass --without-torch",
            )
        path = bundle.file(CHECKPOINT)
    loaded = load_model(Path(path))
    if loaded.sha256 != provenance.checkpoint_sha256:
        raise CheckpointError(
            "not the checkpoint that the bundle was exported from: another SHA-256",
            where=str(path),
            hint=f"the manifest's provenance names {provenance.checkpoint_sha256}",
        )
    return loaded.entry.deploy(loaded.module)


# ---------------------------------------------------------------- lowered files on ONNX Runtime


def _lowered(
    bundle: Bundle, request: ParityRequest, name: str, graph: Graph
) -> Iterator[tuple[StageInfo, Opener]]:
    """One stage a distinct file: the device's engine for `onnxruntime`, its bytes for other targets."""
    wanted = [file for file in graph.files if request.backends is None or file.target in request.backends]
    for file in _distinct(graph):
        sharing = [other for other in wanted if other.path == file.path]
        if not sharing:
            continue
        info = StageInfo(
            stage_name(file, graph),
            _title(file),
            file.precision,
            CANONICAL if file.precision is Precision.FP32 else _made_from(file, graph, wanted),
            file.path,
        )
        yield info, _lowered_opener(bundle, request, name, graph, file)


def _lowered_opener(
    bundle: Bundle, request: ParityRequest, name: str, graph: Graph, file: GraphFile
) -> Opener:
    def opener(info: StageInfo) -> Stage:
        data = bundle.read(file.path)
        if file.target is Target.ONNXRUNTIME:
            engine = open_engine(
                bundle,
                graph=name,
                backend=Target.ONNXRUNTIME,
                precision=file.precision,
                threads=request.stage_threads,
            )
        else:
            engine = OnnxRuntimeEngine(
                data,
                inputs=graph.inputs,
                outputs=graph.outputs,
                where=file.path,
                threads=request.stage_threads,
            )
        return LoweredStage(info, engine, data, graph, threads=request.stage_threads)

    return opener


def _distinct(graph: Graph) -> list[GraphFile]:
    """One entry a file, the one for ONNX Runtime where several targets share it; by rising compression."""
    order = list(Precision)
    entries = sorted(
        graph.files, key=lambda file: (order.index(file.precision), file.target is not Target.ONNXRUNTIME)
    )
    return list({file.path: file for file in reversed(entries)}.values())[::-1]


def stage_name(file: GraphFile, graph: Graph) -> str:
    """`int8` for the file of ONNX Runtime, `int8.tensorrt` for another target's own file."""
    representative = next(entry for entry in _distinct(graph) if entry.path == file.path)
    if representative.target is Target.ONNXRUNTIME:
        return representative.precision.value
    return f"{representative.precision.value}.{representative.target.value}"


def _title(file: GraphFile) -> str:
    if file.target is Target.ONNXRUNTIME:
        return file.precision.value.upper()
    return f"{file.precision.value.upper()} for {_NAMES[file.target]}"


def _made_from(file: GraphFile, graph: Graph, wanted: list[GraphFile]) -> str:
    """FP16 and INT8 are made from FP32: of the same target, else of ONNX Runtime, else canonical."""
    for target in (file.target, Target.ONNXRUNTIME):
        for other in wanted:
            if other.precision is Precision.FP32 and other.target is target:
                return stage_name(other, graph)
    return CANONICAL


# ---------------------------------------------------------------- engines


def _engines(
    bundle: Bundle, request: ParityRequest, name: str, graph: Graph
) -> Iterator[tuple[StageInfo, Opener]]:
    for file in graph.files:
        if file.target is Target.ONNXRUNTIME:
            continue
        if request.backends is not None and file.target not in request.backends:
            continue
        info = StageInfo(
            f"engine.{file.target.value}.{file.precision.value}",
            f"{_NAMES[file.target]} engine {file.precision.value.upper()}",
            file.precision,
            stage_name(file, graph),
            file.path,
        )
        yield info, _engine_opener(bundle, request, name, graph, file)


def _engine_opener(
    bundle: Bundle, request: ParityRequest, name: str, graph: Graph, file: GraphFile
) -> Opener:
    def opener(info: StageInfo) -> Stage | Opened:
        obstacle = engine_obstacle(bundle, name, file)
        if obstacle is not None:
            asked = request.backends is not None
            return Opened(info, None, Status.FAILED if asked else Status.NOT_RUN, obstacle)
        engine = open_engine(bundle, graph=name, backend=file.target, precision=file.precision)
        return EngineStage(info, engine, graph)

    return opener


def engine_obstacle(bundle: Bundle, name: str, file: GraphFile) -> str | None:
    """Why this machine has no engine of a file to run; None where it has one, which then must open."""
    try:
        tensorrt = import_tensorrt(file.target, verb="parity")
        gpu = find_gpu()
    except (BackendError, MissingExtraError) as error:
        return error.what
    record = EngineCache.of_user().find(
        graph=name,
        target=file.target,
        precision=file.precision,
        model_sha256=next(entry.sha256 for entry in bundle.manifest.files if entry.path == file.path),
        tool_version=str(tensorrt.__version__),
        compute_capability=gpu.compute_capability,
        gpu=gpu.name,
    )
    if record is not None:
        return None
    return (
        f"no engine is built for {gpu.name}: run `edgewise build --target {file.target.value} "
        f"--precision {file.precision.value}`"
    )
