"""`edgewise build`: an engine for one graph of a bundle, checked to be in its precision, and cached.

    options = BuildOptions(compute_capabilities=("sm86",))
    record = build_engine(bundle, Target.TENSORRT_RTX, Precision.INT8, options)

TensorRT builds on the GPU that will run the engine. TensorRT-RTX also builds without a GPU, for named compute
capabilities. `docs/engines.md` says what differs between versions.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from edgewise.exporter.engines.apart import compile_apart
from edgewise.exporter.engines.check import check_realised
from edgewise.exporter.engines.compile import CompileJob, compile_graph
from edgewise.exporter.engines.pins import Pins, pins_from_types, read_model
from edgewise.exporter.engines.realised import count_nodes, count_types
from edgewise.exporter.engines.recipe import TensorRTFeatures, choose_recipe
from edgewise.exporter.graph.batch_axis import fix_batch
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Graph, KeptNode, Precision, RealisedPrecision, Target
from edgewise.runtime.engines.base import of_looks
from edgewise.runtime.engines.cache import EngineCache, EngineKey, cache_folder
from edgewise.runtime.engines.cache import EngineRecord as EngineRecord
from edgewise.runtime.engines.cuda import find_gpu
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.errors import BackendError, BuildError

CHECKS_ONLY = {
    (
        Target.TENSORRT_RTX,
        Precision.INT8,
    ): "a check of graph and numbers, not a fast engine: no convolution of "
    "TensorRT-RTX ends in codes, so it moves more bytes than fp16"
}
"""What engines are that nobody should run for their speed."""


def _silent(message: str) -> None:
    del message


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        graph: Name in `manifest.graphs`.
        compute_capabilities: For TensorRT-RTX: GPUs to build for, as `sm86`; empty means this machine's.
        output: Folder for the engine and its record; None means the user's cache, which `edgewise run` reads.
        workspace_mib: Limit of the builder's scratch memory in MiB; None leaves TensorRT's.
        optimisation_level: 0 (quick) to 5 (slow, thorough); None leaves TensorRT's 3.
        batch: Looks of every launch, fewer are padded; None takes 1 to as many as the graph does, unpadded.
        force: Build even where the engine is in the cache.
        progress: Called with the name of each phase.
    """

    graph: str = "main"
    compute_capabilities: tuple[str, ...] = ()
    output: Path | None = None
    workspace_mib: int | None = None
    optimisation_level: int | None = None
    batch: int | None = None
    force: bool = False
    progress: Callable[[str], None] = field(default=_silent, compare=False)

    def cache(self) -> EngineCache:
        """Where the engine goes."""
        return EngineCache(self.output.absolute()) if self.output is not None else EngineCache.of_user()


@dataclass(frozen=True)
class Device:
    """What an engine is built for: named compute capabilities, or the one GPU of this machine."""

    compute_capabilities: tuple[str, ...]
    gpu: str = ""

    def __str__(self) -> str:
        return f"{self.gpu} {', '.join(self.compute_capabilities)}".strip()


def build_engine(
    bundle: Bundle, target: Target, precision: Precision, options: BuildOptions | None = None
) -> EngineRecord:
    """Build an engine, or find it in the cache.

    Raises:
        MissingExtraError: TensorRT is not installed.
        BackendError: The bundle has no such model file, or it does not fit the manifest.
        BundleError: A model file is missing or changed.
        BuildError: TensorRT refuses the model or the GPU, or the engine is not in the precision asked for.
        KeyboardInterrupt: Ctrl-C; nothing is stored.
    """
    options = options or BuildOptions()
    _check_options(target, options)
    trt = import_tensorrt(target, verb="build")
    plan = _plan(trt, bundle, target, precision, options)
    cache = options.cache()
    cache.check_writable()
    if not options.force and (known := cache.lookup(plan.key)) is not None:
        options.progress("found in the cache")
        return known
    stoppable = hasattr(trt, "IProgressMonitor")
    compiled = compile_graph(trt, plan.job) if stoppable else compile_apart(target, plan.job)
    options.progress("checking the precision")
    check_realised(
        precision,
        compiled.weighted,
        plan.kept,
        compiled.layers,
        where=plan.job.where,
    )
    record = EngineRecord(
        key=plan.key,
        bundle=bundle.manifest.name,
        sha256=hashlib.sha256(compiled.plan).hexdigest(),
        size=len(compiled.plan),
        realised=RealisedPrecision(
            target=target,
            tool=f"{target.value} {trt.__version__}",
            device=str(plan.device),
            layers=count_types(compiled.layers),
            weighted=count_nodes((node.name for node in compiled.weighted), compiled.layers),
            graph=options.graph,
        ),
        build_seconds=round(compiled.seconds, 3),
        built_at=datetime.now(timezone.utc).isoformat(timespec="microseconds"),
    )
    cache.store(record, compiled.plan)
    return record


@dataclass(frozen=True)
class Plan:
    """A build before it starts: what to compile, under which key, and which nodes may be wider."""

    device: Device
    job: CompileJob
    key: EngineKey
    kept: tuple[KeptNode, ...]


def _plan(trt: Any, bundle: Bundle, target: Target, precision: Precision, options: BuildOptions) -> Plan:
    release = str(trt.__version__)
    named = bundle.graph_bytes(options.graph, target, precision, release)
    graph = bundle.graph(options.graph)
    if options.batch is not None and options.batch > graph.batch:
        raise BuildError(
            f"{options.batch} looks in one launch of a graph that takes {graph.batch}",
            where=f"{bundle.path}, graph {options.graph}",
            hint=f"export the bundle with --batch {options.batch}, or build with --batch {graph.batch}",
        )
    recipe = choose_recipe(TensorRTFeatures.of(trt), precision)
    device = _device(target, options)
    source = bundle.graph_entry(options.graph, target, recipe.source, release)
    model = bundle.model(source.path)
    pins = _pins(bundle, options.graph, target, release, model) if recipe.pin_layers else {}
    fixed = options.batch if graph.batch > 1 else None
    job = CompileJob(
        model=model if fixed is None else _of_exactly(model, fixed),
        where=str(bundle.path / source.path),
        graph=graph if fixed is None else _of_looks(graph, fixed),
        network_flags=recipe.network_flags,
        set_flags=recipe.set_flags,
        clear_flags=recipe.clear_flags,
        compute_capabilities=() if device.gpu else device.compute_capabilities,
        pins=pins,
        workspace_mib=options.workspace_mib,
        optimisation_level=options.optimisation_level,
        timing_cache=_timing_cache(trt, device),
        batch=graph.batch,
        report=options.progress,
    )
    key = EngineKey(
        graph=options.graph,
        target=target,
        precision=precision,
        model_sha256=hashlib.sha256(named).hexdigest(),
        source_sha256=hashlib.sha256(model).hexdigest(),
        tool_version=release,
        compute_capabilities=device.compute_capabilities,
        gpu=device.gpu,
        shapes={spec.name: spec.shape for spec in of_looks(graph.inputs, fixed or graph.batch)},
        flags=recipe.flags(),
        options=_named_options(options),
        writer=_writer(),
    )
    return Plan(device, job, key, _kept(bundle, options.graph, precision))


def with_realised(bundle: Bundle, record: EngineRecord, progress: Callable[[str], None] = _silent) -> Bundle:
    """Write what the builder realised into the bundle's manifest; an older entry for that device goes.

    A bundle on a read-only medium stays as it is; the engine's record says the same. Where somebody else
    writes the bundle, such as `edgewise calibrate`, this waits, and takes the manifest that it leaves.

    Raises:
        BuildError: The bundle holds another model now than the engine was built from.
    """
    if not os.access(bundle.path, os.W_OK):
        return bundle
    from edgewise.exporter.bundle.writer import update_bundle
    from edgewise.runtime.system.publishing import writing

    def replaced(entries: tuple[RealisedPrecision, ...]) -> tuple[RealisedPrecision, ...]:
        new = record.realised
        own = (new.target, new.device, new.graph)
        others = (entry for entry in entries if (entry.target, entry.device, entry.graph) != own)
        return (*others, new)

    with writing(bundle.path, waiting=lambda holder: progress(f"waiting for {holder}")):
        present = Bundle.open(bundle.path)
        _require_model(present, record.key)
        precisions = tuple(
            msgspec.structs.replace(entry, realised=replaced(entry.realised))
            if entry.precision is record.key.precision
            else entry
            for entry in present.manifest.precisions
        )
        return update_bundle(present, msgspec.structs.replace(present.manifest, precisions=precisions), {})


def _require_model(bundle: Bundle, key: EngineKey) -> None:
    path = bundle.graph_entry(key.graph, key.target, key.precision, key.tool_version).path
    if all(entry.sha256 != key.model_sha256 for entry in bundle.manifest.files if entry.path == path):
        raise BuildError(
            "the bundle's model was replaced while its engine was built",
            where=str(bundle.path / path),
            hint="build again",
        )


def _check_options(target: Target, options: BuildOptions) -> None:
    if target is Target.ONNXRUNTIME:
        raise BuildError(
            "onnxruntime runs the bundle's file as it is; there is nothing to build",
            hint="--target tensorrt or --target tensorrt-rtx",
        )
    if target is Target.TENSORRT and options.compute_capabilities:
        raise BuildError(
            "TensorRT builds for the GPU of this machine only",
            hint="leave --compute-capability out and build on the device, or use --target tensorrt-rtx",
        )
    for name in options.compute_capabilities:
        if not re.fullmatch(r"sm\d{2,3}", name):
            raise BuildError(f"{name!r} is no compute capability", hint="write it as sm86")
    if options.workspace_mib is not None and options.workspace_mib < 1:
        raise BuildError(f"a workspace of {options.workspace_mib} MiB", hint="give 1 or more, e.g. 1024")
    if options.optimisation_level is not None and not 0 <= options.optimisation_level <= 5:
        raise BuildError(f"optimisation level {options.optimisation_level}", hint="give 0 to 5")
    if options.batch is not None and options.batch < 1:
        raise BuildError(f"a batch of {options.batch} looks", hint="give 1 or more, or leave it out")


def _device(target: Target, options: BuildOptions) -> Device:
    if options.compute_capabilities:
        return Device(tuple(sorted(set(options.compute_capabilities))))
    try:
        gpu = find_gpu()
    except BackendError as error:
        if target is Target.TENSORRT:
            raise
        raise BuildError(
            f"there is no GPU here to build for ({error.what})",
            hint="name the GPUs that shall run it, e.g. --compute-capability sm86,sm89",
        ) from None
    return Device((gpu.compute_capability,), gpu.tuned_for if target is Target.TENSORRT else "")


def _of_exactly(model: bytes, looks: int) -> bytes:
    """A file of free batch as one of exactly so many looks."""
    return fix_batch(read_model(model), looks).SerializeToString(deterministic=True)


def _of_looks(graph: Graph, looks: int) -> Graph:
    return msgspec.structs.replace(
        graph, inputs=tuple(of_looks(graph.inputs, looks)), outputs=tuple(of_looks(graph.outputs, looks))
    )


def _kept(bundle: Bundle, graph: str, precision: Precision) -> tuple[KeptNode, ...]:
    for entry in bundle.manifest.precisions:
        if entry.precision is precision:
            return tuple(node for node in entry.kept if node.graph == graph)
    return ()


def _pins(bundle: Bundle, graph: str, target: Target, release: str, compiled: bytes) -> Pins:
    """By the FP16 file's types, where the bundle has one."""
    halves = [entry.precision for entry in bundle.manifest.precisions if entry.precision is Precision.FP16]
    typed = bundle.graph_bytes(graph, target, Precision.FP16, release) if halves else compiled
    return pins_from_types(read_model(compiled), read_model(typed))


def _named_options(options: BuildOptions) -> dict[str, str]:
    named = {
        "workspace_mib": options.workspace_mib,
        "optimisation_level": options.optimisation_level,
        "batch": options.batch,
    }
    return {name: str(value) for name, value in named.items() if value is not None}


def _timing_cache(trt: Any, device: Device) -> Path | None:
    """TensorRT's kernel timings on this GPU; TensorRT-RTX times nothing."""
    if not device.gpu:
        return None
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{device.gpu}-{device.compute_capabilities[0]}-{trt.__version__}")
    return cache_folder() / "timings" / f"{name}.cache"


def _writer() -> str:
    from importlib.metadata import version

    return f"edgewise {version('edgewise')}"
