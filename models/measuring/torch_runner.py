"""A deploy module in torch as a runner of a walk: one graph of a manifest, outputs and probes by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from edgewise.runtime.contract.manifest import Graph, TensorSpec
from edgewise.runtime.engines.base import Held, Ran, Tensor
from edgewise.runtime.system.errors import ExportError


class TorchRunner:
    """`forward(*inputs)` of a module in evaluation mode, on the device of its parameters.

    Args:
        module: Returns the graph's outputs and then its probes, as `named_tensors` reads them.
        graph: Names, types and shapes of inputs, outputs and probes.
        check: Whether a run refuses tensors that hold NaN or whose type or shape does not fit the manifest.

    Raises:
        ExportError: From a run: the count of tensors does not fit the manifest, or as `check` says.
    """

    def __init__(self, module: nn.Module, graph: Graph, *, check: bool = True) -> None:
        self.name = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        self.batch = 1
        self.specs = (*graph.outputs, *graph.probes)
        self._inputs = graph.inputs
        self._check = check
        self._module = module.eval()
        self._device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Runner.run`."""
        return self.step(inputs, {}, ()).outputs

    def hold(self, tensor: Tensor) -> Held:
        """A tensor on the module's device."""
        return torch.from_numpy(np.ascontiguousarray(tensor)).to(self._device)

    def step(self, inputs: Mapping[str, Tensor], state: Mapping[str, Held], keep: Collection[str]) -> Ran:
        """See `Runner.step`."""
        arguments = [
            state[spec.name] if spec.name in state else self._argument(spec, inputs) for spec in self._inputs
        ]
        with torch.inference_mode():
            values = self._module(*arguments)
        named = named_tensors(values, [spec.name for spec in self.specs])
        outputs = {name: value.cpu().numpy() for name, value in named.items()}
        if self._check:
            for spec in self.specs:
                _check(spec, outputs[spec.name])
        # In the order in which the module returns them, which is that of an exported graph.
        return Ran(outputs, {name: named[name] for name in keep})

    def _argument(self, spec: TensorSpec, inputs: Mapping[str, Tensor]) -> torch.Tensor:
        if spec.name not in inputs:
            raise ExportError(
                f"the sample gives no tensor {spec.name!r}", hint="give one array per graph input"
            )
        _check(spec, inputs[spec.name])
        return torch.from_numpy(np.ascontiguousarray(inputs[spec.name])).to(self._device)


def named_tensors(returned: object, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """What a module returns, by the manifest's names and in the order of its leaves.

    Tuples and lists, nested or not, give their tensors in the names' order; dictionaries, nested or not,
    whose keys are the names give each by its own.

    Raises:
        ExportError: Something is no tensor, or count or keys are not those of the names.
    """
    leaves = tree_flatten_with_path(returned)[0]
    hint = "return the outputs and then the probes in the manifest's order, or a dictionary by their names"
    for path, value in leaves:
        if not isinstance(value, torch.Tensor):
            raise ExportError(
                f"the module returns {type(value).__name__} where a tensor belongs",
                where=f"its result{keystr(path)}",
                hint=hint,
            )
    keys = [getattr(path[-1], "key", None) if path else None for path, _ in leaves]
    given: Sequence[object] = keys
    if not any(isinstance(key, str) for key in keys):
        if len(leaves) != len(names):
            raise ExportError(
                f"the module returns {len(leaves)} tensors, the manifest declares {len(names)}",
                where=", ".join(names),
                hint=hint,
            )
        given = names
    if sorted(map(str, given)) != sorted(names):
        raise ExportError(
            f"the module returns a dictionary of {', '.join(map(repr, given))}, the manifest declares "
            + ", ".join(map(repr, names)),
            hint=hint,
        )
    return {str(name): value.detach() for name, (_, value) in zip(given, leaves, strict=True)}


def _check(spec: TensorSpec, array: Tensor) -> None:
    if array.dtype.name != spec.dtype.value or array.shape != spec.shape:
        raise ExportError(
            f"the tensor is {array.dtype.name} {list(array.shape)}, "
            f"the manifest declares {spec.dtype.value} {list(spec.shape)}",
            where=spec.name,
            hint="change the manifest's tensor, or cast and reshape inside the deploy module",
        )
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ExportError("the tensor holds NaN", where=spec.name, hint="check the weights and the decoding")
