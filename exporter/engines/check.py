"""The promise of a precision, held against what the engine really computes in."""

from __future__ import annotations

from collections.abc import Sequence

from edgewise.exporter.engines.realised import UNKNOWN, WIDTH, EngineLayer, node_type
from edgewise.exporter.engines.weighted import WeightedNode
from edgewise.runtime.contract.manifest import KeptNode, Precision
from edgewise.runtime.system.errors import BuildError

_SHOWN = 4


def check_realised(
    precision: Precision,
    weighted: Sequence[WeightedNode],
    kept: Sequence[KeptNode],
    layers: Sequence[EngineLayer],
    *,
    where: str,
) -> None:
    """Hold an engine to its precision.

    Every weighted node computes in exactly the precision asked for; a kept one in that of its manifest entry
    or a wider type. For INT8 every other weighted node must be quantised in the graph. A node whose type the
    layer list does not tell passes: its graph or its pin states it, and the record counts it apart.

    Args:
        where: The model file, for the error.

    Raises:
        BuildError: Nodes that do not, by name, with the types they got.
    """
    if not weighted and precision is not Precision.FP32:
        raise BuildError(
            f"the network has no layer with weights, so {precision.value} cannot be checked",
            where=where,
            hint="build it in fp32",
        )
    kept_at = {node.node: node.precision for node in kept}
    problems: list[str] = []
    for node in weighted:
        got = node_type(node.name, layers)
        if got is None:
            problems.append(f"{node.name} is in no layer of the engine")
        elif got == UNKNOWN:
            continue
        elif node.name in kept_at:
            if WIDTH.get(got, -1) < WIDTH[kept_at[node.name].value]:
                problems.append(f"{node.name} was kept in {kept_at[node.name].value} and computes in {got}")
        elif precision is Precision.INT8 and not node.quantised:
            problems.append(f"{node.name} is neither quantised nor kept wider by the manifest")
        elif got != precision.value:
            problems.append(f"{node.name} computes in {got}")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise BuildError(
            f"{precision.value} was asked for and not built: {'; '.join(problems[:_SHOWN])}{more} "
            f"({len(problems)} of {len(weighted)} nodes with weights)",
            where=where,
            hint="export and calibrate the bundle again; an engine that is not what it says is not kept",
        )
