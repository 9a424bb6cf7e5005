"""From a deploy module to an ONNX graph: the first arrow of the workstation's way.

The deploy module follows the convention of `docs/export.md`: `forward(*inputs)` returns the manifest's
outputs and then its probes in order, or all of them by name. The graph that comes out has exactly the
manifest's names, fixed shapes, standard operators only, no trace of this machine's paths, and the numbers
that torch gave.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgewise.calibration.graph import weights_as_inputs
from edgewise.exporter.from_torch.failure import first_line, untranslatable
from edgewise.exporter.from_torch.native_operators import translations
from edgewise.exporter.graph.numerics import (
    Roles,
    Tensors,
    every_float_alike,
    first_difference,
    run_graph,
)
from edgewise.runtime.contract.manifest import DType, Graph, TensorSpec
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

EXPORT_OPSET = 19
"""The first with DeformConv; `passes.lower_opset` brings the graph to 17 where nothing newer is used."""

LARGEST_FILE = 2**31 - 1
"""Bytes of a serialised graph (protobuf's limit)."""
ROOM_BESIDE_WEIGHTS = 2**24
"""Bytes of a graph for everything that is no weight."""

EXPORT_TOLERANCE = 1e-4
"""Largest relative error of ONNX Runtime in FP32 against torch."""


def export_onnx(
    module: nn.Module,
    graph: Graph,
    samples: Sequence[Tensors],
    reference: Sequence[Tensors] | None = None,
    roles: Roles = every_float_alike,
) -> onnx.ModelProto:
    """Export one graph of a manifest.

    Args:
        module: A deploy module; it is put into evaluation mode.
        graph: Names, types and shapes of inputs, outputs and probes.
        samples: At least one input per graph input name, of the declared type and shape; the graph is
            compared with torch on each.
        reference: What `TorchRunner` gave for each sample; computed where it is None.
        roles: What the outputs are, for the comparison.

    Returns:
        A checked model whose outputs are `graph.outputs` and then `graph.probes`.

    Raises:
        ExportError: Weights with NaN, outputs that do not fit the manifest, a torch construct
            that has no ONNX form, or numbers that differ from torch.
    """
    if not samples:
        raise ExportError("an export needs at least one sample input", hint="pass a sample image")
    from edgewise.models.measuring.torch_runner import TorchRunner

    module.eval()
    refuse_broken_weights(module)
    if reference is None:
        runner = TorchRunner(module, graph)
        reference = [runner.run(sample) for sample in samples]
    model = _trace(module, graph, samples[0], list(reference[0]))
    _order_outputs(model, graph)
    _name_nodes(model)
    strip_private_text(model)
    check_model(model, graph)
    compare_with_torch(model, graph, samples, reference, roles)
    return model


def refuse_broken_weights(module: nn.Module) -> None:
    """Raise ExportError naming the first parameter or buffer that no training leaves behind that went well.

    NaN anywhere, and infinity in what training computes: parameters and running statistics. Other buffers may
    hold it, as attention masks do.
    """
    import torch

    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        trained = isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad
        if trained or name.endswith(("running_mean", "running_var")):
            broken, called = ~torch.isfinite(tensor), "NaN or infinite"
        else:
            broken, called = torch.isnan(tensor), "NaN"
        if bool(broken.any()):
            raise ExportError(
                f"{int(broken.sum())} of {tensor.numel()} values are {called}",
                where=name,
                hint="the training diverged; export an earlier checkpoint",
            )


def refuse_heavy_weights(module: nn.Module, name: str) -> None:
    """Raise ExportError where the weights of a graph do not fit into one ONNX file."""
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*module.parameters(), *module.buffers())}
    total = sum(held.values())
    if total >= LARGEST_FILE - ROOM_BESIDE_WEIGHTS:
        raise ExportError(
            f"the weights take {total / 2**30:.2f} GiB, and an ONNX file ends at 2 GiB",
            where=f"graph {name}",
            hint="edgewise writes no external data: take a smaller model, or weights in fewer tensors",
        )


def _arguments(graph: Graph, sample: Tensors) -> tuple[torch.Tensor, ...]:
    import torch

    return tuple(torch.from_numpy(np.ascontiguousarray(sample[spec.name])) for spec in graph.inputs)


def _order_outputs(model: onnx.ModelProto, graph: Graph) -> None:
    """The manifest's order, whatever order a dictionary has."""
    by_name = {value.name: value for value in model.graph.output}
    names = [spec.name for spec in (*graph.outputs, *graph.probes)]
    if set(names) == set(by_name):
        ordered = [type(by_name[name]).FromString(by_name[name].SerializeToString()) for name in names]
        del model.graph.output[:]
        model.graph.output.extend(ordered)


def _trace(module: nn.Module, graph: Graph, sample: Tensors, names: list[str]) -> onnx.ModelProto:
    """The traced graph; `names` are those of the module's tensors in the order in which it returns them."""
    import torch

    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                module,
                _arguments(graph, sample),
                dynamo=True,
                opset_version=EXPORT_OPSET,
                input_names=[spec.name for spec in graph.inputs],
                output_names=names,
                external_data=False,
                verbose=False,
                optimize=True,
                custom_translation_table=translations(),
            )
    except ImportError as error:  # of a tool; no construct of the module
        raise ExportError(
            "torch.onnx does not fit the onnxscript that is installed",
            where=first_line(error),
            hint="pip install --upgrade onnxscript onnx",
        ) from error
    except Exception as error:  # torch raises many types here
        raise untranslatable(error) from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back the exporter's progress chatter; its failures are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name every node after its layer and operator: `backbone/layers/0/conv1/Conv`.

    The manifest names nodes that stay in a wider precision, and people read those names. A node with a weight
    is named after the weight, because folding a normalisation leaves the convolution the normalisation's
    scope.
    """
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".weight")}
    taken: dict[str, int] = {}
    for node in model.graph.node:
        weight = next((name for name in node.input if name in weights), None)
        scope = weight.removesuffix(".weight").replace(".", "/") if weight else _module_scope(node)
        base = f"{scope}/{node.op_type}" if scope else node.op_type
        count = taken.get(base, 0)
        taken[base] = count + 1
        node.name = base if count == 0 else f"{base}_{count}"


def _module_scope(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [scope for scope in ast.literal_eval(entry.value)[:-1] if scope]
            return scopes[-1].replace(".", "/") if scopes else ""
    return ""


def strip_private_text(model: onnx.ModelProto) -> None:
    """Remove every doc string and metadata entry: torch writes stack traces with local paths into them."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name = "edgewise"
    graph.doc_string = ""
    del graph.metadata_props[:]
    parts = (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""


def check_model(model: onnx.ModelProto, graph: Graph, *, outputs_only: bool = False) -> None:
    """Check the graph against the standard and against the manifest.

    Args:
        outputs_only: The model is lowered: its probes are inner tensors.

    Raises:
        ExportError: Another operator domain, model-local functions, open shapes, a failed shape inference, or
            names, types and shapes of inputs and outputs that are not the manifest's.
    """
    import onnx

    if model.functions:
        raise ExportError("the graph calls model-local functions", where=model.functions[0].name)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ExportError(
                f"operator {node.op_type} is from the domain {node.domain!r}",
                where=node.name,
                hint="only standard ONNX operators run on every target",
            )
    try:
        onnx.checker.check_model(weights_as_inputs(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            "the graph does not follow the ONNX standard", where=str(error).strip().splitlines()[0]
        ) from error
    outputs = graph.outputs if outputs_only else (*graph.outputs, *graph.probes)
    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    for kind, values, specs in (("input", inputs, graph.inputs), ("output", model.graph.output, outputs)):
        found, wanted = [_signature(value) for value in values], [_wanted(spec) for spec in specs]
        if found != wanted:
            raise ExportError(
                f"the graph's {kind}s are {found}, the manifest declares {wanted}",
                hint="names, order, types and shapes must be the manifest's",
            )


def _signature(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int, ...]]:
    import onnx

    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return value.name, dtype, shape


def _wanted(spec: TensorSpec) -> tuple[str, str, tuple[int, ...]]:
    return spec.name, DType(spec.dtype).value, spec.shape


def comparable_names(graph: Graph) -> list[str]:
    """The tensors that stages are compared by: probes, or outputs where a graph has no probes.

    Decoded outputs follow the order of near-equal scores, which rounding may swap; probes do not.
    """
    return [spec.name for spec in (graph.probes or graph.outputs)]


def compare_with_torch(
    model: onnx.ModelProto,
    graph: Graph,
    samples: Sequence[Tensors],
    reference: Sequence[Tensors],
    roles: Roles = every_float_alike,
) -> None:
    """Raise ExportError where ONNX Runtime and torch differ by more than `EXPORT_TOLERANCE`."""
    names = comparable_names(graph)
    for number, (values, wanted) in enumerate(zip(run_graph(model, samples), reference, strict=True)):
        difference = first_difference(values, wanted, names, EXPORT_TOLERANCE, roles)
        if difference is not None:
            raise ExportError(
                f"the exported graph and torch differ on sample {number}: {difference.detail}",
                where=difference.tensor,
                hint="an operator was translated with another meaning; bisect by adding probes before it",
            )
