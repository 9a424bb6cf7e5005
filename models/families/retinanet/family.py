"""RetinaNet as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.recipe import Recipe
from edgewise.models.families.retinanet import recipes
from edgewise.models.families.retinanet.config import MICRO, R50_V1, R50_V2, TINY, RetinanetConfig
from edgewise.models.families.retinanet.deploy import RetinanetDeploy
from edgewise.models.families.retinanet.layouts import LAYOUTS
from edgewise.models.families.retinanet.losses import losses
from edgewise.models.families.retinanet.network import Predictions, Retinanet
from edgewise.models.families.tensors import frame_tensor, level_tensors, settled_tensor, slot_tensors
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import DetectedBoxes
from edgewise.runtime.contract.preprocessing import ShortestEdge, SideRounding

_FINEST = 3
"""The number of the finest level: P3, stride 8."""


def loss(
    config: RetinanetConfig, module: Retinanet, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Loss terms of normalised images float32 [N, 3, H, W]."""
    return losses(config, module(images), targets)


def manifest(name: str, config: RetinanetConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    image = frame_tensor(config.input_size)
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(inputs=(image,), outputs=_outputs(config), probes=_probes(config)),
        preprocessing(config),
        DetectedBoxes(settled="settled"),
    )


def preprocessing(config: RetinanetConfig) -> ShortestEdge:
    """torchvision's rule on one canvas: the mean colour fills the rest, right of the picture and below.

    What is left of a difference: the resized frame is rounded to bytes, and so is the mean colour, which
    torchvision pads with exactly. An upright frame is scaled down until it fits the wide canvas.
    """
    red, green, blue = (round(255 * value) for value in config.mean)
    return ShortestEdge(
        shortest=config.shortest,
        longest=config.longest,
        size=config.input_size,
        rounding=SideRounding.DOWN,
        shrink_to_fit=True,
        pad_value=(blue, green, red),
    )


def raw_heads(predictions: Predictions) -> dict[str, Tensor]:
    """The graph's probes: the maps that decoding reads."""
    return {
        f"{name}_{level}": value
        for name, maps in (("logits", predictions.class_logits()), ("deltas", predictions.deltas))
        for level, value in enumerate(maps, start=_FINEST)
    }


def _outputs(config: RetinanetConfig) -> tuple[TensorSpec, ...]:
    slots = config.decoding.slots
    return (
        *slot_tensors(slots, config.class_count, "corner convention, inside the canvas"),
        settled_tensor("this is proven to be the sequential result of all candidates"),
    )


def _probes(config: RetinanetConfig) -> tuple[TensorSpec, ...]:
    sizes, anchors = config.level_sizes, config.anchors_per_cell
    logits, deltas = "class logits of the anchors", "box regression against the anchors"
    return (
        *level_tensors("logits", sizes, config.class_count * anchors, logits, first=_FINEST),
        *level_tensors("deltas", sizes, 4 * anchors, deltas, first=_FINEST),
    )


FAMILY = Family(
    name="retinanet",
    task="boxes",
    micro=MICRO,
    named=Named("RetinaNet finds things", things="class_count"),
    build=Retinanet,
    loss=loss,
    deploy=RetinanetDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
    more_rounds=RetinanetConfig.with_more_rounds,
)


def _published(name: str, config: RetinanetConfig, recipe: Recipe, average_precision: float) -> ModelEntry:
    figure = PublishedFigure(
        "box AP", average_precision, "COCO val2017", "torchvision, inputs of 800 to 1333 pixels"
    )
    return ModelEntry(name, FAMILY, config, recipe, "BSD-3-Clause", (figure,))


ENTRIES = (
    _published("retinanet-r50-v1", R50_V1, recipes.V1, 0.364),
    _published("retinanet-r50-v2", R50_V2, recipes.V2, 0.415),
    ModelEntry("retinanet-tiny", FAMILY, TINY, recipes.TINY),
)
