"""YOLACT as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.tensors import float_tensor, frame_tensor, settled_tensor, slot_tensors
from edgewise.models.families.yolact import recipes
from edgewise.models.families.yolact.config import (
    DARKNET53,
    MICRO,
    R50,
    R101,
    TINY,
    YolactConfig,
)
from edgewise.models.families.yolact.deploy import YolactDeploy
from edgewise.models.families.yolact.layouts import LAYOUTS
from edgewise.models.families.yolact.losses import losses
from edgewise.models.families.yolact.network import Predictions, Yolact
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import PrototypeInstances
from edgewise.runtime.contract.preprocessing import Stretch


def loss(
    config: YolactConfig, module: Yolact, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Weighted loss terms of normalised images float32 [N, 3, H, W]."""
    return losses(config, module.priors, module(images), targets, module.maskiou_net)


def manifest(name: str, config: YolactConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    image = frame_tensor(config.input_size)
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(inputs=(image,), outputs=_outputs(config), probes=_probes(config)),
        preprocessing(config),
        PrototypeInstances(settled="settled" if config.decoding.sequential else None),
    )


def preprocessing(config: YolactConfig) -> Stretch:
    """The published models stretch the frame to a square, bilinear, half-pixel centres, no antialias."""
    return Stretch(size=config.input_size)


def raw_heads(predictions: Predictions) -> dict[str, Tensor]:
    """The graph's probes: what decoding reads."""
    return {name: getattr(predictions, name) for name in ("loc", "conf", "coefficients", "prototypes")}


def _outputs(config: YolactConfig) -> tuple[TensorSpec, ...]:
    slots = config.decoding.slots
    outputs = (
        *slot_tensors(slots, config.class_count, "corner convention, not clamped"),
        float_tensor(
            "masks",
            (1, slots, *config.prototype_size),
            "probability over the whole input, 0 outside the widened box",
            (0.0, 1.0),
        ),
    )
    if not config.decoding.sequential:
        return outputs
    return (*outputs, settled_tensor("the suppression is proven to be done"))


def _probes(config: YolactConfig) -> tuple[TensorSpec, ...]:
    count, prototypes = config.prior_count, config.prototypes.count
    return (
        float_tensor("loc", (1, count, 4), "box regression against the priors"),
        float_tensor("conf", (1, count, 1 + config.class_count), "class logits, background first"),
        float_tensor("coefficients", (1, count, prototypes), "mask coefficients", (-1.0, 1.0)),
        float_tensor("prototypes", (1, prototypes, *config.prototype_size), "mask prototypes, not negative"),
    )


FAMILY = Family(
    name="yolact",
    task="instances",
    micro=MICRO,
    named=Named("YOLACT finds things", things="class_count"),
    build=Yolact,
    loss=loss,
    deploy=YolactDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
    more_rounds=YolactConfig.with_more_rounds,
)


def published(name: str, config: YolactConfig, average_precision: float, of: Family = FAMILY) -> ModelEntry:
    """An entry for the paper's weights."""
    figure = PublishedFigure("mask AP", average_precision, "COCO test-dev", "README of dbolya/yolact")
    return ModelEntry(name, of, config, recipes.PAPER, "MIT", (figure,))


ENTRIES = (
    published("yolact-r50", R50, 0.282),
    published("yolact-r101", R101, 0.298),
    published("yolact-darknet53", DARKNET53, 0.287),
    ModelEntry("yolact-tiny", FAMILY, TINY, recipes.TINY),
)
