"""Open every stage that a bundle has: what runs here, what failed to open, what cannot run and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise.exporter.parity.file_sets import FileSet, distinct, file_sets, installed_set, stage_name
from edgewise.exporter.parity.report import Status
from edgewise.exporter.parity.request import ParityRequest
from edgewise.exporter.parity.stages import (
    CANONICAL,
    EXPORTED_STAGE,
    TORCH,
    ProbedRunner,
    Stage,
    StageInfo,
)
from edgewise.exporter.way.export import CHECKPOINT, exported_path
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import GraphFile, Manifest, Precision, Target
from edgewise.runtime.engines.base import Runner
from edgewise.runtime.engines.cache import EngineCache
from edgewise.runtime.engines.cuda import find_gpu
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.engines.opening import open_engine
from edgewise.runtime.engines.options import OnnxRuntimeOptions, TensorRTOptions
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.errors import (
    BackendError,
    CheckpointError,
    MissingExtraError,
    ParityError,
)

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


Opener = Callable[[StageInfo], "Stage | Opened"]


def open_stages(bundle: Bundle, request: ParityRequest, stack: ExitStack) -> list[Opened]:
    """Open the stages in the order of the way; `stack` closes them.

    Raises:
        BundleError: A file of the bundle is missing or changed.
        CheckpointError: The checkpoint is missing, broken or not the one that was exported.
        ParityError: A source file is missing and torch was not left out on request.
    """
    opened: list[Opened] = []
    for info, opener in (
        *_workstation(bundle, request),
        *_lowered(bundle, request),
        *_engines(bundle, request),
    ):
        entry = _try(info, opener)
        if entry.stage is not None:
            stack.enter_context(entry.stage.closing)
        opened.append(entry)
    return opened


def _try(info: StageInfo, opener: Opener) -> Opened:
    try:
        found = opener(info)
    except (BackendError, ParityError) as error:
        reason = f"cannot be opened: {error.what}" + (f" ({error.where})" if error.where else "")
        return Opened(info, None, Status.FAILED, reason)
    return found if isinstance(found, Opened) else Opened(info, found)


# ---------------------------------------------------------------- torch, exported, canonical


def _workstation(bundle: Bundle, request: ParityRequest) -> Iterator[tuple[StageInfo, Opener]]:
    manifest = bundle.manifest
    listed = {entry.path for entry in manifest.files}
    exported = {name: exported_path(name) for name in manifest.graphs}
    before = None
    if not request.without_torch:
        if absent := [path for path in exported.values() if path not in listed]:
            raise ParityError(
                f"the bundle has no {absent[0]}, so torch and its export cannot be compared",
                where=str(bundle.path),
                hint="take the bundle of the workstation (exported without --device-only), or pass "
                "--without-torch to take the canonical ONNX model as the reference",
            )
        modules = torch_modules(bundle, request)
        yield (
            StageInfo(TORCH, "torch", Precision.FP32, None),
            lambda info: _torch_stage(info, manifest, modules, request.stage_threads),
        )
        yield (
            StageInfo(EXPORTED_STAGE, "exported ONNX", Precision.FP32, TORCH, exported),
            lambda info: _onnx_stage(info, bundle, request),
        )
        before = EXPORTED_STAGE
    canonical = {name: graph.canonical for name, graph in manifest.graphs.items() if graph.canonical}
    if len(canonical) != len(manifest.graphs):
        raise ParityError(
            "the manifest names no canonical model", where=str(bundle.path), hint="export the bundle again"
        )
    yield (
        StageInfo(CANONICAL, "canonical ONNX", Precision.FP32, before, canonical),
        lambda info: _onnx_stage(info, bundle, request),
    )


def _torch_stage(
    info: StageInfo, manifest: Manifest, modules: Mapping[str, nn.Module], threads: int
) -> Stage:
    """The training definition in its deploy form, in evaluation mode."""
    import torch

    from edgewise.models.measuring.torch_runner import TorchRunner

    closing = ExitStack()
    closing.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(threads)
    runners = {
        name: TorchRunner(modules[name], graph, check=False) for name, graph in manifest.graphs.items()
    }
    return Stage(info, runners, {name: runner.specs for name, runner in runners.items()}, closing=closing)


def _onnx_stage(info: StageInfo, bundle: Bundle, request: ParityRequest) -> Stage:
    """ONNX files of the workstation's way, whose probes are graph outputs, on ONNX Runtime."""
    closing = ExitStack()
    runners: dict[str, Runner] = {}
    specs = {name: (*graph.outputs, *graph.probes) for name, graph in bundle.manifest.graphs.items()}
    for name, path in info.files.items():
        engine = OnnxRuntimeEngine(
            bundle.model(path),
            inputs=bundle.graph(name).inputs,
            outputs=specs[name],
            where=path,
            options=OnnxRuntimeOptions(threads=request.stage_threads),
        )
        closing.callback(engine.close)
        runners[name] = engine
    return Stage(info, runners, specs, closing=closing)


def torch_modules(bundle: Bundle, request: ParityRequest) -> Mapping[str, nn.Module]:
    """The deploy module of each graph that the bundle was exported from.

    Raises:
        ParityError: A bundle from outside the registry, and no module was given, or not one for each graph.
        CheckpointError: The checkpoint is missing or not the one that the provenance names.
    """
    graphs = set(bundle.manifest.graphs)
    if request.module is not None:
        given = request.module if isinstance(request.module, Mapping) else {"main": request.module}
        if set(given) != graphs:
            raise ParityError(
                f"modules are given for {sorted(given)}, the bundle has the graphs {sorted(graphs)}",
                where=str(bundle.path),
                hint="give one deploy module per graph",
            )
        return given
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
    return {"main": loaded.entry.deploy(loaded.module)}


# ---------------------------------------------------------------- lowered files on ONNX Runtime


def _lowered(bundle: Bundle, request: ParityRequest) -> Iterator[tuple[StageInfo, Opener]]:
    """One stage for equal files: the device's engine where ONNX Runtime is among their targets."""
    sets = file_sets(bundle.manifest)
    wanted = [own for own in sets if request.backends is None or own.target in request.backends]
    for own in distinct(sets):
        if not any(own.shares(other) for other in wanted):
            continue
        fp32 = own.precision is Precision.FP32
        info = StageInfo(
            stage_name(own, sets),
            _title(own),
            own.precision,
            CANONICAL if fp32 else _made_from(own, sets, wanted),
            own.paths,
        )
        yield info, _lowered_opener(bundle, request, own)


def _lowered_opener(bundle: Bundle, request: ParityRequest, own: FileSet) -> Opener:
    options = OnnxRuntimeOptions(threads=request.stage_threads)

    def opener(info: StageInfo) -> Stage:
        closing, runners, specs = ExitStack(), {}, {}
        for name, file in own.files.items():
            graph, data = bundle.graph(name), bundle.model(file.path)
            engine = OnnxRuntimeEngine(
                data, inputs=graph.inputs, outputs=graph.given, where=file.path, options=options
            )
            closing.callback(engine.close)
            runners[name], specs[name] = engine, graph.outputs
            if graph.probes:
                probed = ProbedRunner(
                    engine,
                    data,
                    graph.outputs,
                    graph.probes,
                    where=file.path,
                    threads=request.stage_threads,
                )
                closing.callback(probed.close)
                runners[name], specs[name] = probed, (*graph.outputs, *probed.probes)
        return Stage(info, runners, specs, lowered=True, closing=closing)

    return opener


def _title(own: FileSet) -> str:
    if own.target is Target.ONNXRUNTIME and not own.before:
        return own.precision.value.upper()
    before = f" before {own.before}" if own.before else ""
    return f"{own.precision.value.upper()} for {_NAMES[own.target]}{before}"


def _made_from(own: FileSet, sets: list[FileSet], wanted: list[FileSet]) -> str:
    """FP16 and INT8 are made from FP32: of the same target, else of ONNX Runtime, else canonical."""
    for target in (own.target, Target.ONNXRUNTIME):
        for other in wanted:
            if other.precision is Precision.FP32 and other.target is target:
                return stage_name(other, sets)
    return CANONICAL


# ---------------------------------------------------------------- engines


def _engines(bundle: Bundle, request: ParityRequest) -> Iterator[tuple[StageInfo, Opener]]:
    sets = file_sets(bundle.manifest)
    for target, precision in dict.fromkeys((own.target, own.precision) for own in sets):
        if target is Target.ONNXRUNTIME:
            continue
        if request.backends is not None and target not in request.backends:
            continue
        own = installed_set(sets, target, precision)
        info = StageInfo(
            f"engine.{own.target.value}.{own.precision.value}",
            f"{_NAMES[own.target]} engine {own.precision.value.upper()}",
            own.precision,
            stage_name(own, sets),
            own.paths,
        )
        yield info, _engine_opener(bundle, request, own)


def _engine_opener(bundle: Bundle, request: ParityRequest, own: FileSet) -> Opener:
    def opener(info: StageInfo) -> Stage | Opened:
        for name, file in own.files.items():
            obstacle = engine_obstacle(bundle, name, file)
            if obstacle is not None:
                asked = request.backends is not None
                return Opened(info, None, Status.FAILED if asked else Status.NOT_RUN, obstacle)
        closing, runners = ExitStack(), {}
        for name in own.files:
            backend = TensorRTOptions(own.target)
            runners[name] = open_engine(bundle, graph=name, precision=own.precision, backend=backend)
            closing.callback(runners[name].close)
        specs = {name: bundle.graph(name).outputs for name in own.files}
        return Stage(info, runners, specs, on_device=True, closing=closing)

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
        gpu=gpu.tuned_for,
    )
    if record is not None:
        return None
    return (
        f"no engine is built for {gpu.tuned_for}: run `edgewise build --target {file.target.value} "
        f"--precision {file.precision.value}`"
    )
