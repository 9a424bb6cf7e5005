"""CornerNet as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.cornernet import recipes
from edgewise.models.families.cornernet.config import HOURGLASS104, MICRO, TINY, CornernetConfig
from edgewise.models.families.cornernet.deploy import CornernetDeploy
from edgewise.models.families.cornernet.layouts import LAYOUTS
from edgewise.models.families.cornernet.losses import losses
from edgewise.models.families.cornernet.network import Cornernet, Predictions
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.tensors import class_tensor, float_tensor, frame_tensor, slot_tensors
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import CentredBoxes, DetectedBoxes, SoftSuppression
from edgewise.runtime.contract.preprocessing import CentredFrame

_PARTS = {"tl": "upper left corners", "br": "lower right corners", "ct": "centres"}


def loss(
    config: CornernetConfig, module: Cornernet, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Loss terms of normalised images float32 [N, 3, H, W]."""
    return losses(config, module(images), targets)


def manifest(name: str, config: CornernetConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    image = frame_tensor(config.input_size)
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(inputs=(image,), outputs=_outputs(config), probes=_probes(config)),
        preprocessing(config),
        (CentredBoxes if config.triplets else DetectedBoxes)(soft_suppression=SoftSuppression()),
    )


def preprocessing(config: CornernetConfig) -> CentredFrame:
    """The published rule: the frame in the middle, black around it."""
    return CentredFrame(size=config.input_size, keep_size=config.keep_size)


def raw_heads(stacks: Sequence[Predictions]) -> dict[str, Tensor]:
    """The graph's probes: the maps of the last hourglass."""
    return {
        f"{name}_{field}": value
        for name, maps in zip(_PARTS, stacks[-1], strict=True)
        if maps is not None
        for field, value in maps._asdict().items()
    }


def _outputs(config: CornernetConfig) -> tuple[TensorSpec, ...]:
    slots, centres = config.decoding.slots, config.decoding.corners
    boxes = slot_tensors(slots, config.class_count, "corner convention")
    if not config.triplets:
        return boxes
    return (
        *boxes,
        float_tensor("centres", (1, centres, 2), "x, y in input pixels"),
        float_tensor("centre_scores", (1, centres), "falling; 0 marks an empty slot", (0.0, 1.0)),
        msgspec.structs.replace(class_tensor(centres, config.class_count), name="centre_classes"),
    )


def _probes(config: CornernetConfig) -> tuple[TensorSpec, ...]:
    rows, columns = config.map_size
    return tuple(
        float_tensor(f"{part}_{field}", (1, channels, rows, columns), f"{meaning} of {words}")
        for part, words in _PARTS.items()
        for field, channels, meaning in (
            ("heat", config.class_count, "logits"),
            ("tag", 1, "embeddings"),
            ("offset", 2, "x, y within their cells,"),
        )
        if part != "ct" or (config.triplets and field != "tag")
    )


FAMILY = Family(
    name="cornernet",
    task="boxes",
    micro=MICRO,
    named=Named("CornerNet finds things", things="class_count"),
    build=Cornernet,
    loss=loss,
    deploy=CornernetDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
)

ENTRIES = (
    ModelEntry(
        "cornernet-hg104",
        FAMILY,
        HOURGLASS104,
        recipes.COCO,
        "BSD-3-Clause",
        (PublishedFigure("box AP", 0.405, "COCO test-dev", "one scale, own size, flip test"),),
    ),
    ModelEntry("cornernet-tiny", FAMILY, TINY, recipes.TINY),
)
