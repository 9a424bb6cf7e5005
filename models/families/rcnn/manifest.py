"""What the manifests of R-CNNs have in common: tensors, preprocessing, names of the raw heads."""

from __future__ import annotations

from torch import Tensor

from edgewise.models.families.rcnn.config import RcnnConfig
from edgewise.models.families.rcnn.network import Features
from edgewise.models.families.tensors import (
    float_tensor,
    frame_tensor,
    level_tensors,
    settled_tensor,
    slot_tensors,
)
from edgewise.runtime.contract.manifest import Graph
from edgewise.runtime.contract.preprocessing import ColourOrder, PadSide, ShortestEdge


def graph(config: RcnnConfig) -> Graph:
    """Of the deploy module."""
    slots = config.decoding.slots
    outputs = [
        *slot_tensors(slots, config.class_count, "corner convention, inside the canvas"),
    ]
    if config.mask is not None:
        side = 2 * config.mask.bins
        outputs.append(float_tensor("masks", (1, slots, side, side), "probability over the box", (0.0, 1.0)))
    if config.keypoint_count:
        side = 2 * config.keypoints.bins
        shape = (1, slots, config.keypoint_count, side, side)
        outputs.append(float_tensor("heatmaps", shape, "logits over the box"))
    outputs.append(settled_tensor("every suppression is proven to be done, of all candidates"))
    probes = (
        *level_tensors("objectness", config.level_sizes, config.anchors_per_cell, "logits of the anchors"),
        *level_tensors(
            "deltas", config.level_sizes, 4 * config.anchors_per_cell, "box regression against the anchors"
        ),
    )
    return Graph(inputs=(frame_tensor(config.input_size),), outputs=tuple(outputs), probes=probes)


def preprocessing(config: RcnnConfig) -> ShortestEdge:
    """The published rule on one canvas; the rest of it has the mean colour, which is 0 to the network."""
    image = config.image
    mean = image.mean if image.colour is ColourOrder.BGR else image.mean[::-1]
    blue, green, red = (round(image.scale * value) for value in mean)
    return ShortestEdge(
        shortest=config.shortest,
        longest=config.longest,
        rounding=config.rounding,
        size=config.input_size,
        shrink_to_fit=True,
        pad_value=(blue, green, red),
        pad_side=PadSide.BOTTOM_RIGHT,
    )


def raw_heads(features: Features) -> dict[str, Tensor]:
    """The graph's probes: the maps that the stages on regions start from."""
    return {
        **{f"objectness_{level}": value for level, value in enumerate(features.proposals.objectness)},
        **{f"deltas_{level}": value for level, value in enumerate(features.proposals.deltas)},
    }
