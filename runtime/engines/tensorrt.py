"""TensorRT 8.6, 10, 11 and TensorRT-RTX on a GPU, from engines that `edgewise build` made on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise.runtime.contract.manifest import DType, Precision, Target, TensorSpec
from edgewise.runtime.engines.base import (
    HostState,
    Tensor,
    check_signature,
    count_looks,
    numpy_dtype,
    of_looks,
)
from edgewise.runtime.engines.cache import EngineCache
from edgewise.runtime.engines.cuda import CudaContext, TensorBuffer, find_gpu
from edgewise.runtime.engines.tensorrt_api import (
    ERROR,
    has_int64,
    import_tensorrt,
    make_logger,
    manifest_dtype,
    register_plugins,
)
from edgewise.runtime.system.errors import BackendError

if TYPE_CHECKING:
    from edgewise.runtime.contract.bundle import Bundle


def open_tensorrt(
    bundle: Bundle,
    *,
    graph: str = "main",
    target: Target = Target.TENSORRT,
    precision: Precision = Precision.FP16,
    cache: EngineCache | None = None,
    device: int = 0,
) -> TensorRTEngine:
    """Open the engine that was built on this machine for a bundle's graph.

    Args:
        target: `tensorrt` or `tensorrt-rtx`.
        cache: Where engines were built; None takes the user's cache.
        device: Index of the GPU.

    Raises:
        MissingExtraError: TensorRT is not installed.
        BackendError: No pycuda, no GPU, no engine for this model, GPU and TensorRT, or it does not fit.
        BundleError: The bundle's model file is missing or changed.
    """
    trt = import_tensorrt(target, verb="run")
    entry = bundle.graph_entry(graph, target, precision, str(trt.__version__))
    bundle.file(entry.path)
    model_sha256 = next(file.sha256 for file in bundle.manifest.files if file.path == entry.path)
    gpu = find_gpu(device)
    cache = cache or EngineCache.of_user()
    record = cache.find(
        graph=graph,
        target=target,
        precision=precision,
        model_sha256=model_sha256,
        tool_version=str(trt.__version__),
        compute_capability=gpu.compute_capability,
        gpu=gpu.tuned_for,
    )
    if record is None:
        raise BackendError(
            f"no {precision.value} engine is built for {gpu.tuned_for} ({gpu.compute_capability}) with "
            f"{target.value} {trt.__version__}",
            where=str(cache.folder),
            hint=f"edgewise build {bundle.path} --target {target.value} --precision {precision.value}",
        )
    declared = bundle.graph(graph)
    return TensorRTEngine(
        cache.read(record),
        trt,
        inputs=declared.inputs,
        outputs=declared.given,
        batch=declared.batch,
        where=str(cache.engine_path(record)),
        name=f"{target.value} {trt.__version__} {precision.value}, {gpu.name}",
        device=device,
    )


class TensorRTEngine(HostState):
    """A built engine on a GPU (protocol: `edgewise.runtime.engines.base.Engine`).

    Args:
        plan: The engine. It is executable code: take it from an `EngineCache` and nowhere else.
        trt: The module from `import_tensorrt`.
        inputs, outputs: What the engine must have, no more and no less; of one look.
        batch: Most looks of a run of the graph; the engine may be built for fewer, or for exactly so many.
        where: Name of the engine in errors.
        name: What `Engine.name` says.
        device: Index of the GPU.

    Raises:
        BackendError: The engine does not load, or its tensors are not the declared ones.
    """

    def __init__(
        self,
        plan: bytes,
        trt: Any,
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        where: str,
        name: str,
        batch: int = 1,
        device: int = 0,
    ) -> None:
        self._batch = batch
        self._launched: int | None = None
        """Looks of every launch of an engine that was built for exactly so many."""
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._where = where
        self._name = name
        self._errors: list[str] = []
        self._logger = make_logger(trt, self._listen)
        self._buffers: dict[str, TensorBuffer] = {}
        self._cuda = CudaContext(device)
        self._closed = False
        self._stream: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._free: list[TensorSpec] = []
        """Inputs with a free axis."""
        self._shaped_for = 0
        try:
            with self._cuda.active():
                self._open(plan, trt)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        return self._name

    @property
    def batch(self) -> int:
        return self._batch

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once; see `Engine.run`."""
        if self._closed:
            raise BackendError("the engine is closed", where=self._where, hint="open the session again")
        looks = count_looks(self._inputs, inputs, self._batch, where=self._where)
        # A graph of one look may have outputs without an axis for it.
        rows = None if self._batch == 1 else looks
        with self._cuda.active():
            if self._free and looks != self._shaped_for:
                self._shape_for(looks)
            for spec in self._inputs:
                buffer = self._buffers[spec.name]
                fill(buffer.first(rows), inputs[spec.name], name=spec.name, where=self._where)
                if rows is not None and self._launched is not None:
                    buffer.host[rows:] = buffer.host[rows - 1]
                buffer.upload(self._stream, self._launched or rows)
            if not self._context.execute_async_v3(self._stream.handle):
                raise BackendError(
                    f"TensorRT failed: {self._reason()}", where=self._where, hint="run `edgewise selftest`"
                )
            for spec in self._outputs:
                self._buffers[spec.name].download(self._stream, rows)
            self._stream.synchronize()
        return {
            spec.name: self._buffers[spec.name].first(rows).astype(numpy_dtype(spec.dtype), copy=True)
            for spec in self._outputs
        }

    def close(self) -> None:
        """Free the GPU's memory; see `Engine.close`."""
        if self._closed:
            return
        self._closed = True
        # An error that ended the context was raised by the call that met it, and must not be hidden here.
        with suppress(BackendError), self._cuda.active():
            for buffer in self._buffers.values():
                buffer.free()
            self._context = self._engine = self._runtime = self._stream = None
        self._buffers.clear()
        self._context = self._engine = self._runtime = self._stream = None
        self._cuda.close()

    def _open(self, plan: bytes, trt: Any) -> None:
        register_plugins(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(
                f"the engine does not load: {self._reason()}",
                where=self._where,
                hint="it fits one TensorRT version and GPU: run `edgewise build` again",
            )
        tensors = read_signature(trt, self._engine, where=self._where)
        wide = not has_int64(trt)
        for role, specs in (("input", self._inputs), ("output", self._outputs)):
            found = {
                name: (tensor.dtype, tensor.shape if self._batch == 1 else (None, *tensor.shape[1:]))
                for name, tensor in tensors.items()
                if tensor.role == role
            }
            check_signature(specs, widened(found, specs) if wide else found, role=role, where=self._where)
        self._free = [spec for spec in self._inputs if None in tensors[spec.name].shape]
        if self._batch > 1:
            self._read_batch(tensors[self._inputs[0].name].shape[0])
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"the engine cannot run: {self._reason()}",
                where=self._where,
                hint="is the GPU's memory full?",
            )
        self._stream = self._cuda.stream()
        self._shape_for(self._batch)
        for spec in of_looks((*self._inputs, *self._outputs), self._batch):
            buffer = self._cuda.buffer(spec.shape, numpy_dtype(tensors[spec.name].dtype))
            self._buffers[spec.name] = buffer
            self._take(self._context.set_tensor_address(spec.name, buffer.address), spec)

    def _take(self, taken: bool, spec: TensorSpec) -> None:
        """Raise BackendError where TensorRT does not take a tensor's shape or address."""
        if not taken:
            raise BackendError(
                f"TensorRT does not take tensor {spec.name!r} of shape {spec.shape}: {self._reason()}",
                where=self._where,
                hint="run `edgewise build` again",
            )

    def _read_batch(self, built_for: int | None) -> None:
        """How many looks the engine takes: exactly what it was built for, or its profile's most."""
        if built_for is None:
            shapes = self._engine.get_tensor_profile_shape(self._inputs[0].name, 0)
            self._batch = min(self._batch, int(shapes[2][0]))
        elif built_for <= self._batch:
            self._batch = self._launched = built_for
        else:
            raise BackendError(
                f"the engine takes {built_for} looks, the manifest says {self._batch}",
                where=self._where,
                hint="run `edgewise build` again",
            )

    def _shape_for(self, looks: int) -> None:
        for spec in of_looks(self._free, looks):
            self._take(self._context.set_input_shape(spec.name, spec.shape), spec)
        self._shaped_for = looks

    def _listen(self, severity: str, message: str) -> None:
        if severity == ERROR:
            self._errors.append(message.strip())

    def _reason(self) -> str:
        return self._errors[-1] if self._errors else "no reason was logged"


@dataclass(frozen=True)
class EngineTensor:
    """An input or output as the engine has it; a free dimension is None."""

    role: str
    dtype: DType
    shape: tuple[int | None, ...]


def read_signature(trt: Any, engine: Any, *, where: str) -> dict[str, EngineTensor]:
    """The inputs and outputs of an `ICudaEngine` by name (needs the tensor-name API of TensorRT 8.5).

    Raises:
        BackendError: The TensorRT is older, or a tensor has a type that no manifest can declare.
    """
    if not hasattr(engine, "num_io_tensors"):
        raise BackendError(
            f"TensorRT {trt.__version__} is too old", where=where, hint="edgewise needs TensorRT 8.6 or newer"
        )
    tensors: dict[str, EngineTensor] = {}
    for index in range(engine.num_io_tensors):
        name = str(engine.get_tensor_name(index))
        dtype = manifest_dtype(engine.get_tensor_dtype(name))
        if dtype is None:
            raise BackendError(
                f"tensor {name!r} is a {engine.get_tensor_dtype(name)}, which no manifest can declare",
                where=where,
                hint="export the model with another type at this place",
            )
        role = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        tensors[name] = EngineTensor(role, dtype, shape)
    return tensors


def widened(
    found: Mapping[str, tuple[DType, Sequence[int | None]]], declared: Sequence[TensorSpec]
) -> dict[str, tuple[DType, Sequence[int | None]]]:
    """`found` with INT32 read as INT64 where the manifest says so: TensorRT 8.x has no INT64."""
    wide = {spec.name for spec in declared if spec.dtype is DType.INT64}
    return {
        name: (DType.INT64 if name in wide and dtype is DType.INT32 else dtype, shape)
        for name, (dtype, shape) in found.items()
    }


def fill(host: Tensor, value: Tensor, *, name: str, where: str) -> None:
    """Copy an input into its host buffer; an INT64 input goes into an INT32 buffer only where it fits.

    Raises:
        BackendError: A value does not fit.
    """
    if host.dtype != value.dtype:
        bounds = np.iinfo(host.dtype)
        if value.size and (value.min() < bounds.min or value.max() > bounds.max):
            raise BackendError(
                f"input {name!r} holds values that do not fit {host.dtype}",
                where=where,
                hint="this TensorRT has no INT64 tensors",
            )
    np.copyto(host, value, casting="same_kind")
