"""Walk two ONNX models tensor by tensor: the error by depth, and the first layer that exceeds a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgewise.exporter.graph.inner_tensors import InnerTensors
from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.contract.manifest import TensorSpec
from edgewise.runtime.engines.base import Tensor, numpy_dtype

CHUNK_BYTES = 128 << 20
"""Size of the inner tensors exposed at a time: it bounds a walk's memory. A chunk is a run of both models."""


@dataclass(frozen=True)
class LayerError:
    """One tensor that both models produce, in the candidate's topological order."""

    depth: int
    """Position among the shared float tensors, from 0."""
    tensor: str
    node: str
    """Name of the candidate's node that produces it (the tensor's name where the node has none)."""
    operator: str
    relative: float
    """max|a - b| / max|b|; infinite where shape or finiteness differs."""


def shared_tensors(candidate: InnerTensors, reference: InnerTensors) -> list[tuple[str, onnx.NodeProto]]:
    """Float tensors that nodes of both models produce under one name, in the candidate's order."""
    return [
        (name, node)
        for node in candidate.model.graph.node
        for name in node.output
        if name in candidate.specs and name in reference.specs
    ]


def layer_errors(
    candidate: InnerTensors,
    reference: InnerTensors,
    feeds: Mapping[str, Tensor],
    inputs: Sequence[TensorSpec],
    *,
    within: Iterable[str] | None = None,
    threads: int = 1,
) -> Iterator[LayerError]:
    """Yield the error of every shared float tensor for one input, lazily, a chunk of tensors at a time.

    Args:
        feeds: The graph's inputs, the same for both models.
        within: Look only at these tensors and what they are computed from. Decoding (TopK, NMS) puts
            near-equal scores into another order, so that errors behind it say nothing about a layer.
    """
    pairs = shared_tensors(candidate, reference)
    if within is not None:
        needed = candidate.ancestors(within)
        pairs = [(name, node) for name, node in pairs if name in needed]
    start = 0
    for chunk in _chunks(pairs, candidate):
        names = [name for name, _ in chunk]
        ours = _read(candidate, names, feeds, inputs, threads)
        theirs = _read(reference, names, feeds, inputs, threads)
        for offset, (name, node) in enumerate(chunk):
            yield LayerError(
                depth=start + offset,
                tensor=name,
                node=node.name or name,
                operator=node.op_type,
                relative=difference(ours.pop(name), theirs.pop(name)).relative,
            )
        start += len(chunk)


def _chunks(
    pairs: list[tuple[str, onnx.NodeProto]], model: InnerTensors
) -> Iterator[list[tuple[str, onnx.NodeProto]]]:
    chunk: list[tuple[str, onnx.NodeProto]] = []
    size = 0
    for name, node in pairs:
        spec = model.specs[name]
        own = int(np.prod(spec.shape)) * numpy_dtype(spec.dtype).itemsize
        if chunk and size + own > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, node))
        size += own
    if chunk:
        yield chunk


def _read(
    model: InnerTensors,
    names: Sequence[str],
    feeds: Mapping[str, Tensor],
    inputs: Sequence[TensorSpec],
    threads: int,
) -> dict[str, Tensor]:
    engine = model.open(names, inputs, threads=threads)
    try:
        return engine.run(feeds)
    finally:
        engine.close()


def first_divergence(errors: Iterable[LayerError], limit: float) -> LayerError | None:
    """The first layer whose error exceeds `limit`; None where none does. Stops reading `errors` there."""
    return next((error for error in errors if not error.relative <= limit), None)
