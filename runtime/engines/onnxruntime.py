"""ONNX Runtime, the engine that comes with the base install."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgewise.runtime.contract.manifest import DType, Precision, Target, TensorSpec
from edgewise.runtime.engines.base import (
    Held,
    Ran,
    Tensor,
    check_signature,
    check_tensors,
    count_looks,
    of_looks,
)
from edgewise.runtime.engines.options import ONNXRUNTIME, OnnxRuntimeOptions
from edgewise.runtime.system.errors import BackendError
from edgewise.runtime.system.processor import available_cores

if TYPE_CHECKING:
    from edgewise.runtime.contract.bundle import Bundle

DEFORM_CONV_SINCE = "1.25"
"""The first release with DeformConv on the CPU. Python 3.10 gets none newer than 1.23."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_DTYPES = {
    "tensor(uint8)": DType.UINT8,
    "tensor(int8)": DType.INT8,
    "tensor(int32)": DType.INT32,
    "tensor(int64)": DType.INT64,
    "tensor(float16)": DType.FLOAT16,
    "tensor(float)": DType.FLOAT32,
    "tensor(bool)": DType.BOOL,
}


def installed_release() -> str:
    """The version of ONNX Runtime that runs here."""
    return str(_import_onnxruntime().__version__)


def open_onnxruntime(
    bundle: Bundle,
    *,
    graph: str = "main",
    precision: Precision = Precision.FP32,
    options: OnnxRuntimeOptions = ONNXRUNTIME,
) -> OnnxRuntimeEngine:
    """Open the `onnxruntime` file of a bundle's graph, for the release that is installed.

    It is opened from bytes that were hashed in memory.
    """
    entry = bundle.graph_entry(graph, Target.ONNXRUNTIME, precision, installed_release())
    declared = bundle.graph(graph)
    return OnnxRuntimeEngine(
        bundle.model(entry.path),
        inputs=declared.inputs,
        outputs=declared.given,
        where=str(bundle.path / entry.path),
        batch=declared.batch,
        options=options,
    )


class OnnxRuntimeEngine:
    """An ONNX model in ONNX Runtime (protocol: `edgewise.runtime.engines.base.Engine`).

    Args:
        model: Serialised ONNX model with its weights inside.
        inputs, outputs: What the model must have, no more and no less.
        where: Name of the model in errors.
        batch: Most looks of a run; where it is more than 1, the model's first axis must be free.
        options: Threads and provider; never another provider instead.

    Raises:
        BackendError: onnxruntime or the provider is missing, the model does not load, or its tensors differ.
    """

    def __init__(
        self,
        model: bytes,
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        where: str,
        batch: int = 1,
        options: OnnxRuntimeOptions = ONNXRUNTIME,
    ) -> None:
        threads, provider = options.threads, options.provider
        if threads is not None and threads < 1:
            raise BackendError(f"threads is {threads}", hint="give a number from 1 up, or leave it out")
        ort = _import_onnxruntime()
        self._provider = provider
        self._where = where
        self._batch = batch
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._output_names = [spec.name for spec in outputs]
        count = threads or available_cores()
        self._session: Any = _open_session(ort, model, where, count, provider)
        self._name = f"onnxruntime {ort.__version__}, {provider.upper()}, {count} threads"
        inputs_found = _found(self._session.get_inputs(), where)
        check_signature(self._inputs, inputs_found, role="input", where=where)
        check_signature(self._outputs, _found(self._session.get_outputs(), where), role="output", where=where)
        fixed = [name for name, (_, shape) in inputs_found.items() if batch > 1 and shape[0] is not None]
        if fixed:
            raise BackendError(
                f"the input {fixed[0]!r} takes one look, the manifest says {batch}",
                where=where,
                hint="export the bundle again",
            )

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
        if self._session is None:
            raise BackendError("the engine is closed", where=self._where, hint="open the session again")
        looks = count_looks(self._inputs, inputs, self._batch, where=self._where)
        try:
            values: list[Tensor] = self._session.run(self._output_names, dict(inputs))
        except Exception as error:
            raise BackendError(
                f"onnxruntime failed: {_first_line(error)}", where=self._where, hint="run `edgewise selftest`"
            ) from error
        outputs = dict(zip(self._output_names, values, strict=True))
        check_tensors(of_looks(self._outputs, looks), outputs, role="output", where=self._where)
        return outputs

    def hold(self, tensor: Tensor) -> Held:
        """An OrtValue on the device of the provider."""
        return _import_onnxruntime().OrtValue.ortvalue_from_numpy(tensor, self._provider, 0)

    def step(self, inputs: Mapping[str, Tensor], state: Mapping[str, Held], keep: Collection[str]) -> Ran:
        """See `Runner.step`: state stays on the device of the provider."""
        if self._session is None:
            raise BackendError("the engine is closed", where=self._where, hint="open the session again")
        images = [spec for spec in self._inputs if spec.name not in state]
        check_tensors(images, inputs, role="input", where=self._where)
        binding = self._session.io_binding()
        try:
            for name, tensor in inputs.items():
                binding.bind_cpu_input(name, tensor)
            for name, value in state.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._output_names:
                binding.bind_output(name, self._provider if name in keep else "cpu")
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise BackendError(
                f"onnxruntime failed: {_first_line(error)}", where=self._where, hint="run `edgewise selftest`"
            ) from error
        values = dict(zip(self._output_names, binding.get_outputs(), strict=True))
        # On the CPU an OrtValue's array is the state's own memory, which the caller must not get.
        outputs = {
            name: value.numpy().copy() if name in keep else value.numpy() for name, value in values.items()
        }
        check_tensors(self._outputs, outputs, role="output", where=self._where)
        return Ran(outputs, {name: values[name] for name in keep})

    def close(self) -> None:
        self._session = None


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"onnxruntime cannot be imported: {error}", hint="pip install onnxruntime"
        ) from None
    return onnxruntime


def _open_session(ort: Any, model: bytes, where: str, threads: int, provider: str) -> Any:
    wanted = PROVIDERS.get(provider)
    if wanted is None:
        raise BackendError(f"no provider is called {provider!r}", hint=f"choose one of {sorted(PROVIDERS)}")
    if wanted not in ort.get_available_providers():
        raise BackendError(
            f"this onnxruntime has no {wanted}",
            hint="pip uninstall onnxruntime && pip install onnxruntime-gpu",
        )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Planning all tensors as one block took 70 MB more for YOLACT-550 and no less time.
    options.enable_mem_pattern = False
    try:
        session = ort.InferenceSession(model, options, providers=[wanted])
    except Exception as error:
        raise BackendError(
            f"onnxruntime {ort.__version__} cannot open the model: {_first_line(error)}",
            where=where,
            hint="update onnxruntime, or export the bundle again",
        ) from None
    active = session.get_providers()
    if not active or active[0] != wanted:
        raise BackendError(
            f"asked for {wanted}, onnxruntime gave {active}",
            where=where,
            hint="`edgewise doctor` says what is installed; nothing falls back on its own",
        )
    return session


def _found(nodes: Sequence[Any], where: str) -> dict[str, tuple[DType, list[int | None]]]:
    found: dict[str, tuple[DType, list[int | None]]] = {}
    for node in nodes:
        dtype = _DTYPES.get(node.type)
        if dtype is None:
            raise BackendError(
                f"tensor {node.name!r} is a {node.type}, which no manifest can declare", where=where
            )
        found[node.name] = (dtype, [size if isinstance(size, int) else None for size in node.shape])
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
