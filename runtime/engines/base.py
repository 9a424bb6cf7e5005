"""What every inference engine promises, and the checks that all of them share.

An engine runs one graph of a bundle with fixed shapes. It takes and gives numpy arrays by exact tensor name.
Whatever does not fit the manifest is a BackendError: an engine never renames, casts, pads or drops a tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import DType, TensorSpec
from edgewise.runtime.system.errors import BackendError

Tensor = NDArray[Any]


Held = Any
"""A state tensor where a runner keeps it between runs: only runners of the same backend look inside."""


@dataclass(frozen=True, eq=False)
class Ran:
    """What one run gave.

    Attributes:
        outputs: The tensors by name.
        held: Those of them that were to be kept, where the next run reads them.
    """

    outputs: dict[str, Tensor]
    held: dict[str, Held]


class Runner(Protocol):
    """One graph that can be run: an engine on a device, an ONNX model in memory, a module in torch."""

    @property
    def name(self) -> str:
        """What computes it, with version and device, e.g. `onnxruntime 1.22.0, CPU, 2 threads`."""
        ...

    @property
    def batch(self) -> int:
        """Most looks of one run; 1 or more."""
        ...

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once.

        Args:
            inputs: Exactly the graph's inputs, C-contiguous, with their dtypes and shapes; where `batch` is
                more than 1, their first axis holds 1 to so many looks.

        Returns:
            The graph's outputs (and probes, where the runner shows them) for as many looks. The arrays belong
            to the caller: a later run does not write to them, so that one frame can be postprocessed while
            the next is inferred.

        Raises:
            EdgewiseError: An input does not fit, or the run failed.
        """
        ...

    def hold(self, tensor: Tensor) -> Held:
        """Take a state tensor over to where the graph computes."""
        ...

    def step(self, inputs: Mapping[str, Tensor], state: Mapping[str, Held], keep: Collection[str]) -> Ran:
        """Run once between other runs.

        Args:
            inputs: The graph's inputs that are no state, as in `run`.
            state: The others, as `hold` or an earlier step gave them.
            keep: Outputs that a later step reads as state.

        Raises:
            EdgewiseError: As `run`.
        """
        ...


class HostState:
    """State in the host's memory, for runners whose graphs compute there or copy from there anyway."""

    @property
    def batch(self) -> int:
        """One look a run, where a runner does not say more."""
        return 1

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Runner.run`."""
        raise NotImplementedError

    def hold(self, tensor: Tensor) -> Held:
        """The array itself."""
        return tensor

    def step(self, inputs: Mapping[str, Tensor], state: Mapping[str, Held], keep: Collection[str]) -> Ran:
        """See `Runner.step`."""
        outputs = self.run({**inputs, **state})
        return Ran(outputs, {name: outputs[name].copy() for name in keep})


class Engine(Runner, Protocol):
    """A lowered file, opened and ready to run exactly as declared. Use it from one thread at a time."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs as the manifest declares them, checked against what the engine really has."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs as the manifest declares them; `run` gives exactly these, in that order."""
        ...

    def close(self) -> None:
        """Free what the engine holds; running it afterwards is a BackendError. Closing twice is harmless."""
        ...


_NUMPY: dict[DType, type[np.generic]] = {
    DType.UINT8: np.uint8,
    DType.INT8: np.int8,
    DType.INT32: np.int32,
    DType.INT64: np.int64,
    DType.FLOAT16: np.float16,
    DType.FLOAT32: np.float32,
    DType.BOOL: np.bool_,
}


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """The numpy dtype of a manifest dtype."""
    return np.dtype(_NUMPY[dtype])


def describe(spec: TensorSpec) -> str:
    """`name float32 [1, 100, 4]`, as errors and tables print a tensor."""
    return f"{spec.name} {spec.dtype.value} {list(spec.shape)}"


def of_looks(specs: Sequence[TensorSpec], looks: int) -> Sequence[TensorSpec]:
    """Tensors of one look as those of several."""
    if looks == 1:
        return specs
    return [msgspec.structs.replace(spec, shape=(looks, *spec.shape[1:])) for spec in specs]


def count_looks(specs: Sequence[TensorSpec], inputs: Mapping[str, Tensor], batch: int, *, where: str) -> int:
    """How many looks the inputs of a run hold, after a check that they are `specs` for so many.

    Args:
        specs: The inputs, of one look.
        batch: Most looks of a run.
        where: Engine or bundle concerned.

    Raises:
        BackendError: No looks or too many, or names, dtypes or shapes that do not fit.
    """
    first = inputs.get(specs[0].name)
    looks = first.shape[0] if batch > 1 and first is not None and first.ndim else 1
    if not 1 <= looks <= batch:
        raise BackendError(
            f"{looks} looks are given to a graph that takes 1 to {batch} in one run",
            where=where,
            hint="a session takes any number and runs the graph as often as it must",
        )
    check_tensors(of_looks(specs, looks), inputs, role="input", where=where)
    return looks


def check_tensors(
    specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], *, role: str, where: str
) -> None:
    """Raise BackendError unless `tensors` are exactly `specs` by name, dtype and shape.

    Args:
        role: `input` or `output`, for the message.
        where: Engine or bundle concerned.
    """
    missing = [spec.name for spec in specs if spec.name not in tensors]
    unknown = sorted(set(tensors) - {spec.name for spec in specs})
    if missing or unknown:
        raise BackendError(
            f"{role}s do not fit: missing {missing or 'none'}, unknown {unknown or 'none'}",
            where=where,
            hint=f"the graph's {role}s are {[spec.name for spec in specs]}",
        )
    for spec in specs:
        tensor = tensors[spec.name]
        if tensor.dtype != numpy_dtype(spec.dtype) or tensor.shape != spec.shape:
            raise BackendError(
                f"{role} {spec.name!r} is {tensor.dtype} {list(tensor.shape)}",
                where=where,
                hint=f"the manifest declares {describe(spec)}",
            )


def check_signature(
    declared: Sequence[TensorSpec],
    found: Mapping[str, tuple[DType, Sequence[int | None]]],
    *,
    role: str,
    where: str,
) -> None:
    """Raise BackendError unless the tensors found in a model file or engine are the declared ones.

    Args:
        declared: Inputs or outputs of the manifest's graph.
        found: Name -> (dtype, shape) in the file; None for the batch dimension where it is left free.
        role: `input` or `output`, for the message.
        where: The file concerned.
    """
    hint = "the file and the manifest disagree: export the bundle again"
    names = {spec.name for spec in declared}
    missing, unknown = sorted(names - set(found)), sorted(set(found) - names)
    if missing or unknown:
        raise BackendError(
            f"the model's {role}s are not the manifest's: missing {missing or 'none'}, "
            f"undeclared {unknown or 'none'}",
            where=where,
            hint=hint,
        )
    for spec in declared:
        dtype, shape = found[spec.name]
        free_batch = len(shape) > 0 and shape[0] is None
        fits = tuple(shape[1:]) == spec.shape[1:] if free_batch else tuple(shape) == spec.shape
        if dtype is not spec.dtype or len(shape) != len(spec.shape) or not fits:
            raise BackendError(
                f"{role} {spec.name!r} is {dtype.value} {list(shape)} in the model, "
                f"{spec.dtype.value} {list(spec.shape)} in the manifest",
                where=where,
                hint=hint,
            )


def check_not_nan(tensors: Mapping[str, Tensor], *, where: str, sums: Mapping[str, float]) -> None:
    """Raise BackendError where a float tensor holds NaN.

    A sum is NaN where an element is; only then is the tensor searched, since opposite infinities also sum to
    NaN. That costs about 0.2 ms per million elements, but for those whose sums the graph gave itself.
    """
    known = {name for name, total in sums.items() if not np.isnan(total)}
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f" or name in known:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            total = tensor.sum(dtype=np.float32)
        if np.isnan(total) and np.isnan(tensor).any():
            raise BackendError(
                f"output {name!r} holds NaN",
                where=where,
                hint="run `edgewise selftest`; an overflow in a narrow precision is the usual cause",
            )
