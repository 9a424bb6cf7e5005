"""One graph through TensorRT's parser and builder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgewise.exporter.engines.pins import Pins, apply_pins
from edgewise.exporter.engines.realised import EngineLayer, layers_from_inspector, layers_from_log
from edgewise.exporter.engines.watch import BuildLog, interruptible, make_monitor
from edgewise.exporter.engines.weighted import WeightedNode, weighted_nodes
from edgewise.runtime.contract.manifest import DType, Graph, TensorSpec
from edgewise.runtime.engines.base import check_signature
from edgewise.runtime.engines.tensorrt_api import make_logger, manifest_dtype, register_plugins
from edgewise.runtime.system.atomic import write_bytes
from edgewise.runtime.system.errors import BuildError


def silent(message: str) -> None:
    """Report nothing."""
    del message


@dataclass(frozen=True)
class CompileJob:
    """Everything that the compiler is told.

    Attributes:
        model: The serialised ONNX model.
        where: Its name in errors.
        graph: What its inputs and outputs must be; of one look where their first axis is free.
        network_flags, set_flags, clear_flags: Names of TensorRT's flags.
        compute_capabilities: Targets of TensorRT-RTX (`sm86`); empty for TensorRT, which builds for its GPU.
        pins: Layer types of a weakly typed build.
        workspace_mib: Limit of scratch memory; None leaves TensorRT's.
        optimisation_level: 0 to 5; None leaves TensorRT's.
        timing_cache: File of kernel timings that is read and renewed; None for none.
        batch: Most looks of a run, where the first axis is free.
        report: Called with the name of each phase.
    """

    model: bytes
    where: str
    graph: Graph
    network_flags: tuple[str, ...]
    set_flags: tuple[str, ...] = ()
    clear_flags: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    pins: Pins = field(default_factory=dict)
    workspace_mib: int | None = None
    optimisation_level: int | None = None
    timing_cache: Path | None = None
    batch: int = 1
    report: Callable[[str], None] = silent


@dataclass(frozen=True)
class Compiled:
    """A built engine with what is known of it."""

    plan: bytes
    weighted: tuple[WeightedNode, ...]
    layers: tuple[EngineLayer, ...]
    seconds: float


def compile_graph(trt: Any, job: CompileJob) -> Compiled:
    """Parse and build.

    Raises:
        BuildError: TensorRT refuses a node or a target, or fails; the message names the node.
        BackendError: The parsed network's tensors are not the manifest's.
        KeyboardInterrupt: Ctrl-C, after the builder stopped between two steps.
    """
    log = BuildLog()
    logger = make_logger(trt, log.listen)
    register_plugins(trt)
    builder = _create_builder(trt, logger, log)
    network = builder.create_network(_bits(trt.NetworkDefinitionCreationFlag, job.network_flags))
    job.report("parsing")
    parser = trt.OnnxParser(network, logger)
    _parse(parser, job)
    _check_network(trt, network, job)
    weighted = weighted_nodes(trt, network)
    if job.pins:
        apply_pins(trt, network, job.pins)
    config = builder.create_builder_config()
    keep_alive = _configure(trt, builder, network, config, job)
    started = time.perf_counter()
    with interruptible() as request:
        if hasattr(config, "progress_monitor"):
            config.progress_monitor = make_monitor(trt, job.report, request)
        else:
            job.report("building")
        memory = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    del keep_alive
    if memory is None:
        raise BuildError(
            f"the builder failed: {log.reason()}",
            where=job.where,
            hint="the message names the layer; `docs/engines.md` lists what each TensorRT builds",
        )
    if job.timing_cache is not None:
        save_timings(config, job.timing_cache)
    plan = bytes(memory)
    return Compiled(plan, weighted, _read_layers(trt, logger, log, plan, job), seconds)


def _create_builder(trt: Any, logger: Any, log: BuildLog) -> Any:
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:
        raise BuildError(
            f"TensorRT {trt.__version__} does not start: {log.reason() if log.errors else error}",
            hint="TensorRT builds on the GPU that shall run the engine; tensorrt-rtx builds without one",
        ) from None


def _bits(flags: Any, names: Sequence[str]) -> int:
    return sum(1 << int(getattr(flags, name)) for name in names)


def _parse(parser: Any, job: CompileJob) -> None:
    if parser.parse(job.model):
        return
    problems = [_parser_problem(parser.get_error(index)) for index in range(parser.num_errors)]
    raise BuildError(
        f"the parser refuses the model: {'; '.join(problems) or 'no reason was given'}",
        where=job.where,
        hint="`docs/engines.md` lists what each TensorRT parses; export the bundle again for this target",
    )


def _parser_problem(error: Any) -> str:
    node = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    place = f"{operator} {node}".strip() or (f"node {error.node()}" if error.node() >= 0 else "the file")
    return f"{place}: {error.desc().strip()}"


def _check_network(trt: Any, network: Any, job: CompileJob) -> None:
    inputs = {tensor.name: tensor for tensor in map(network.get_input, range(network.num_inputs))}
    outputs = {tensor.name: tensor for tensor in map(network.get_output, range(network.num_outputs))}
    for role, declared, tensors in (
        ("input", job.graph.inputs, inputs),
        ("output", job.graph.given, outputs),
    ):
        check_signature(declared, _found(trt, declared, tensors, job), role=role, where=job.where)


def _found(
    trt: Any, declared: Sequence[TensorSpec], tensors: Mapping[str, Any], job: CompileJob
) -> dict[str, tuple[DType, list[int | None]]]:
    wide = {
        spec.name for spec in declared if spec.dtype is DType.INT64 and not hasattr(trt.DataType, "INT64")
    }
    found: dict[str, tuple[DType, list[int | None]]] = {}
    for name, tensor in tensors.items():
        dtype = manifest_dtype(tensor.dtype)
        if dtype is None:
            raise BuildError(f"tensor {name!r} is a {tensor.dtype}", where=job.where, hint="export it again")
        shape = [None if size < 0 else int(size) for size in tensor.shape]
        found[name] = (DType.INT64 if name in wide and dtype is DType.INT32 else dtype, shape)
    return found


def _configure(trt: Any, builder: Any, network: Any, config: Any, job: CompileJob) -> list[Any]:
    """Set every option; what is returned must live until the build is over."""
    keep_alive: list[Any] = []
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in job.set_flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    for name in job.clear_flags:
        config.clear_flag(getattr(trt.BuilderFlag, name))
    if job.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mib << 20)
    if job.optimisation_level is not None:
        config.builder_optimization_level = job.optimisation_level
    if job.compute_capabilities:
        _set_targets(trt, config, job.compute_capabilities)
    shapes = {spec.name: spec.shape for spec in job.graph.inputs}
    free = [
        tensor for tensor in map(network.get_input, range(network.num_inputs)) if -1 in tuple(tensor.shape)
    ]
    if free:
        profile = builder.create_optimization_profile()
        for tensor in free:
            fewest = shapes[tensor.name]
            most = (job.batch * fewest[0], *fewest[1:])
            profile.set_shape(tensor.name, fewest, most, most)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(
                f"TensorRT does not take the shapes {', '.join(f'{name} {shapes[name]}' for name in shapes)}",
                where=job.where,
                hint="the free dimensions of the file do not fit the manifest: export the bundle again",
            )
        keep_alive.append(profile)
    if job.timing_cache is not None:
        keep_alive.append(attach_timings(config, job.timing_cache))
    return keep_alive


def attach_timings(config: Any, path: Path) -> Any:
    """Let the builder begin with the timings of earlier builds; what it does not take is begun anew."""
    known = path.read_bytes() if path.exists() else b""
    for data in dict.fromkeys((known, b"")):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _set_targets(trt: Any, config: Any, names: Sequence[str]) -> None:
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        capability = getattr(trt.ComputeCapability, name.upper(), None)
        if capability is None:
            known = sorted(
                entry.lower() for entry in trt.ComputeCapability.__members__ if entry.startswith("SM")
            )
            raise BuildError(
                f"{trt.__name__.split('.')[0]} {trt.__version__} does not build for {name}",
                hint=f"it builds for {', '.join(known)}; on other GPUs and Jetsons use --target tensorrt",
            )
        if not config.set_compute_capability(capability, index):
            raise BuildError(f"{trt.__name__.split('.')[0]} does not take {name} as target {index + 1}")


def save_timings(config: Any, path: Path) -> None:
    """Keep the timings for the next build, where TensorRT hands them out."""
    cache = config.get_timing_cache()
    if cache is not None:
        write_bytes(path, bytes(cache.serialize()))


def _read_layers(
    trt: Any, logger: Any, log: BuildLog, plan: bytes, job: CompileJob
) -> tuple[EngineLayer, ...]:
    """The engine's layers: from the inspector, or, for engines built for GPUs elsewhere, from the log."""
    if job.compute_capabilities:
        layers = tuple(layer for message in log.layer_lists for layer in layers_from_log(message))
    else:
        runtime = trt.Runtime(logger)  # must outlive the engine
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(f"the new engine does not load: {log.reason()}", where=job.where)
        inspector = engine.create_engine_inspector()
        layers = layers_from_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    if not layers:
        raise BuildError(
            "the builder did not say which layers the engine has, so its precision cannot be checked",
            where=job.where,
            hint="report the version of TensorRT",
        )
    return layers
