"""UPSNet as the registry sees it."""

from __future__ import annotations

from torch import Tensor

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.tensors import (
    class_tensor,
    float_tensor,
    frame_tensor,
    label_map_tensor,
    level_tensors,
    settled_tensor,
)
from edgewise.models.families.upsnet import recipes
from edgewise.models.families.upsnet.config import MICRO, R50_CITYSCAPES, R50_COCO, TINY, UpsnetConfig
from edgewise.models.families.upsnet.deploy import UpsnetDeploy
from edgewise.models.families.upsnet.layouts import LAYOUTS
from edgewise.models.families.upsnet.losses import losses
from edgewise.models.families.upsnet.network import Features, Upsnet
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import PanopticSegments
from edgewise.runtime.contract.preprocessing import Letterbox, PadSide


def manifest(name: str, config: UpsnetConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    image = frame_tensor(config.input_size)
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(inputs=(image,), outputs=_outputs(config), probes=_probes(config)),
        preprocessing(config),
        PanopticSegments(settled="settled", stuff_area_limit=config.decoding.stuff_area_limit),
    )


def preprocessing(config: UpsnetConfig) -> Letterbox:
    """One factor for both sides, the rest of the canvas in the mean colour at the bottom and the right.

    The published inference scales the shorter side to a given length instead and pads to a multiple of 32; a
    graph of fixed shape takes every frame on one canvas.
    """
    blue, green, red = (round(value) for value in config.mean)
    return Letterbox(size=config.input_size, pad_value=(blue, green, red), pad_side=PadSide.BOTTOM_RIGHT)


def raw_heads(features: Features) -> dict[str, Tensor]:
    """The graph's probes: the maps that the two stages and the panoptic head read."""
    return {
        **{f"objectness_{level}": value for level, value in enumerate(features.proposals.objectness)},
        **{f"deltas_{level}": value for level, value in enumerate(features.proposals.deltas)},
        "fcn_score": features.scores,
    }


def _outputs(config: UpsnetConfig) -> tuple[TensorSpec, ...]:
    slots, size = config.decoding.slots, config.panoptic_size
    return (
        float_tensor(
            "boxes", (1, slots, 4), "x1, y1, x2, y2 in input pixels, corner convention, inside the canvas"
        ),
        float_tensor("scores", (1, slots), "0 marks an empty slot", (0.0, 1.0)),
        class_tensor(slots, config.thing_count),
        label_map_tensor(
            "segments",
            size,
            "stuff class, or number of stuff classes + slot, or (last value) unknown",
            config.last_segment,
        ),
        label_map_tensor("semantic", size, "index into the manifest's classes", config.class_count - 1),
        settled_tensor("suppressions and pruning are proven to be done"),
    )


def _probes(config: UpsnetConfig) -> tuple[TensorSpec, ...]:
    stride = config.backbone.stage_strides[0]
    height, width = config.input_size[0] // stride, config.input_size[1] // stride
    return (
        *level_tensors("objectness", config.level_sizes, config.anchors_per_cell, "logits of the anchors"),
        *level_tensors(
            "deltas", config.level_sizes, 4 * config.anchors_per_cell, "box regression against the anchors"
        ),
        float_tensor("fcn_score", (1, config.class_count, height, width), "semantic logits, stuff first"),
    )


FAMILY = Family(
    name="upsnet",
    task="panoptic",
    micro=MICRO,
    named=Named("UPSNet names things and stuff", things="thing_count", stuff="stuff_count"),
    build=Upsnet,
    loss=losses,
    deploy=UpsnetDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
    more_rounds=UpsnetConfig.with_more_rounds,
)

NON_COMMERCIAL = "non-commercial use only (Uber Non-Commercial License)"

_SOURCE = "README of uber-research/UPSNet, inputs of"

ENTRIES = (
    ModelEntry(
        "upsnet-r50-coco",
        FAMILY,
        R50_COCO,
        recipes.COCO,
        NON_COMMERCIAL,
        (PublishedFigure("PQ", 0.425, "COCO val2017", f"{_SOURCE} 800 to 1333 pixels"),),
    ),
    ModelEntry(
        "upsnet-r50-cityscapes",
        FAMILY,
        R50_CITYSCAPES,
        recipes.CITYSCAPES,
        NON_COMMERCIAL,
        (PublishedFigure("PQ", 0.593, "Cityscapes val", f"{_SOURCE} 1024x2048 pixels"),),
    ),
    ModelEntry("upsnet-tiny", FAMILY, TINY, recipes.TINY),
)
