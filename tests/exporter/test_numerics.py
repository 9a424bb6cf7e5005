"""What two graphs may differ in: equal scores lie in any order, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgewise.exporter.graph.numerics import Tensors, first_difference
from edgewise.exporter.way.export import canonical_graph
from edgewise.runtime.contract.manifest import DType, Graph, TensorSpec
from edgewise.runtime.results.kind import OutputRoles

LIMIT = 1e-4
NAMES = ["boxes", "scores", "classes", "semantic"]


def slots_and_map(outputs: Tensors) -> OutputRoles:
    return OutputRoles(slots="scores", maps={"semantic": outputs["semantic"].astype(np.int64)})


def detections() -> dict[str, np.ndarray]:
    """Six slots, of which 1 and 2 tie and the last two are empty."""
    return {
        "boxes": np.arange(24, dtype=np.float32).reshape(1, 6, 4),
        "scores": np.array([[0.9, 0.5, 0.5, 0.3, 0.0, 0.0]], np.float32),
        "classes": np.array([[1, 2, 3, 4, 5, 6]], np.int32),
        "semantic": np.arange(1000, dtype=np.int32).reshape(1, 20, 50) % 7,
    }


def parted(change: np.ndarray | None = None, **swapped: tuple[int, int]) -> str | None:
    values = detections()
    for name, (first, second) in swapped.items():
        values[name][:, [first, second]] = values[name][:, [second, first]]
    if change is not None:
        values["semantic"] = change
    found = first_difference(values, detections(), NAMES, LIMIT, slots_and_map)
    return found.tensor if found else None


def test_tied_and_empty_slots_lie_in_any_order() -> None:
    assert parted(boxes=(1, 2), classes=(4, 5)) is None


@pytest.mark.parametrize("slots", [(0, 1), (0, 3)])
def test_other_slots_do_not(slots: tuple[int, int]) -> None:
    assert parted(boxes=slots) == "boxes"
    assert parted(classes=slots) == "classes"
    assert parted(scores=slots) == "scores"


def test_a_map_of_classes_agrees_by_its_pixels() -> None:
    semantic = detections()["semantic"].copy()
    semantic[0, 0, :3] = 6
    assert parted(semantic) is None
    assert parted((semantic + 1) % 7) == "semantic"


def test_without_roles_every_value_counts() -> None:
    values = detections()
    values["boxes"][:, [1, 2]] = values["boxes"][:, [2, 1]]
    found = first_difference(values, detections(), NAMES, LIMIT)
    assert found is not None
    assert found.tensor == "boxes"


class Empty(nn.Module):
    """Slots by topk where nothing is found: which cells fill them is the implementation's choice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 8, 8)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        heat = torch.relu(self.conv(image.float().permute(0, 3, 1, 2) / 255.0) - 50)
        scores, cells = heat.flatten(1).topk(4, 1)
        corner = torch.stack((cells % 8, cells // 8), 2).float() * 8
        return {"scores": scores, "boxes": torch.cat((corner, corner + 8), 2)}


@pytest.mark.slow
def test_a_detector_that_finds_nothing_exports_without_probes_and_by_names() -> None:
    boxes, scores = (
        TensorSpec(name=name, dtype=DType.FLOAT32, shape=shape)
        for name, shape in (("boxes", (1, 4, 4)), ("scores", (1, 4)))
    )
    image = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, 64, 64, 3))
    graph = Graph(inputs=(image,), outputs=(boxes, scores))
    sample = {"image": np.random.default_rng(1).integers(0, 256, image.shape, np.uint8)}
    made = canonical_graph(Empty(), graph, [sample], roles=lambda outputs: OutputRoles(slots="scores"))
    assert [value.name for value in made.canonical.graph.output] == ["boxes", "scores"]
