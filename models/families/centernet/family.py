"""CenterNet as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.centernet import recipes
from edgewise.models.families.centernet.config import (
    DLA34,
    MICRO,
    RESNET18,
    RESNET101,
    TINY,
    CenternetConfig,
)
from edgewise.models.families.centernet.deploy import CenternetDeploy
from edgewise.models.families.centernet.layouts import LAYOUTS
from edgewise.models.families.centernet.losses import losses
from edgewise.models.families.centernet.network import Centernet, Predictions
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.recipe import Recipe
from edgewise.models.families.tensors import float_tensor, frame_tensor, slot_tensors
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import DetectedBoxes
from edgewise.runtime.contract.preprocessing import CentredFrame


def loss(
    config: CenternetConfig, module: Centernet, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Loss terms of normalised images float32 [N, 3, H, W]."""
    return losses(config, module(images), targets)


def manifest(name: str, config: CenternetConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    image = frame_tensor(config.input_size)
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(inputs=(image,), outputs=_outputs(config), probes=_probes(config)),
        preprocessing(config),
        DetectedBoxes(score_threshold=config.score_threshold, display_threshold=0.3),
    )


def preprocessing(config: CenternetConfig) -> CentredFrame:
    """The published rule: the frame in the middle, black around it."""
    return CentredFrame(size=config.input_size, keep_size=config.keep_size)


def raw_heads(predictions: Predictions) -> dict[str, Tensor]:
    """The graph's probes: the maps that decoding reads."""
    return dict(predictions._asdict())


def _outputs(config: CenternetConfig) -> tuple[TensorSpec, ...]:
    slots = config.slots
    return slot_tensors(slots, config.class_count, "corner convention")


def _probes(config: CenternetConfig) -> tuple[TensorSpec, ...]:
    rows, columns = config.map_size
    return (
        float_tensor("heat", (1, config.class_count, rows, columns), "logits of things' centres"),
        float_tensor("size", (1, 2, rows, columns), "width and height in cells of 4 input pixels"),
        float_tensor("offset", (1, 2, rows, columns), "x, y of the centre within its cell"),
    )


FAMILY = Family(
    name="centernet",
    task="boxes",
    micro=MICRO,
    named=Named("CenterNet finds things", things="class_count"),
    build=Centernet,
    loss=loss,
    deploy=CenternetDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
)


def _published(name: str, config: CenternetConfig, recipe: Recipe, average_precision: float) -> ModelEntry:
    figure = PublishedFigure(
        "box AP",
        average_precision,
        "COCO val2017",
        "frames at their own size (`keep_size`), without flip test",
    )
    return ModelEntry(name, FAMILY, config, recipe, "MIT", (figure,))


ENTRIES = (
    _published("centernet-r18", RESNET18, recipes.COCO, 0.281),
    _published("centernet-r101", RESNET101, recipes.COCO, 0.346),
    _published("centernet-dla34", DLA34, recipes.COCO_2X, 0.374),
    ModelEntry("centernet-tiny", FAMILY, TINY, recipes.TINY),
)
