"""What a deploy module returns beside what its manifest says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgewise.runtime.contract.manifest import Graph


def check_declared(graph: Graph, outputs: Sequence[Tensor]) -> None:
    """Outputs and then probes: their number, shapes, dtypes and value ranges."""
    specs = (*graph.outputs, *graph.probes)
    assert len(outputs) == len(specs)
    for spec, value in zip(specs, outputs, strict=True):
        assert tuple(value.shape) == spec.shape, spec.name
        assert str(value.dtype) == f"torch.{spec.dtype.value}", spec.name
        if spec.value_range is not None:
            assert spec.value_range[0] <= float(value.min()), spec.name
            assert float(value.max()) <= spec.value_range[1], spec.name
