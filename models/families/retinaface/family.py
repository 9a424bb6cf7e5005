"""RetinaFace as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.retinaface import recipes
from edgewise.models.families.retinaface.config import (
    MICRO,
    MNET025,
    MNET025_RELU,
    R50,
    TINY,
    RetinafaceConfig,
)
from edgewise.models.families.retinaface.deploy import RetinafaceDeploy
from edgewise.models.families.retinaface.layouts import LAYOUTS
from edgewise.models.families.retinaface.losses import losses
from edgewise.models.families.retinaface.network import Predictions, Retinaface
from edgewise.models.families.tensors import (
    float_tensor,
    frame_tensor,
    level_tensors,
    settled_tensor,
    slot_tensors,
)
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import BoxedPoints
from edgewise.runtime.contract.preprocessing import Letterbox, PadSide


def loss(
    config: RetinafaceConfig, module: Retinaface, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Loss terms of normalised images float32 [N, 3, H, W]."""
    return losses(config, module(images), targets)


def manifest(name: str, config: RetinafaceConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    image = frame_tensor(config.input_size)
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(inputs=(image,), outputs=_outputs(config), probes=_probes(config)),
        preprocessing(config),
        BoxedPoints(settled="settled", score_threshold=config.decoding.score_threshold),
    )


def preprocessing(config: RetinafaceConfig) -> Letterbox:
    """The whole frame on one canvas, the mean colour right of it or below, as in the published training.

    The published demonstration does not resize; the published measurements scale the shorter side to 1600.
    """
    blue, green, red = (round(value) for value in config.mean)
    return Letterbox(size=config.input_size, pad_value=(blue, green, red), pad_side=PadSide.BOTTOM_RIGHT)


def raw_heads(predictions: Predictions) -> dict[str, Tensor]:
    """The graph's probes: the maps that decoding reads."""
    return {
        f"{name}_{level}": value
        for name, maps in zip(("logits", "deltas", "offsets"), predictions, strict=True)
        for level, value in enumerate(maps)
    }


def _outputs(config: RetinafaceConfig) -> tuple[TensorSpec, ...]:
    slots, points = config.decoding.slots, config.point_count
    return (
        *slot_tensors(slots, 1, "not clipped"),
        float_tensor("points", (1, slots, points, 2), "x, y of each point in input pixels"),
        settled_tensor("this is proven to be the sequential result of all candidates"),
    )


def _probes(config: RetinafaceConfig) -> tuple[TensorSpec, ...]:
    sizes, cell = config.level_sizes, config.priors_per_cell
    return (
        *level_tensors("logits", sizes, 2 * cell, "logits of background and face of the priors"),
        *level_tensors("deltas", sizes, 4 * cell, "box regression against the priors"),
        *level_tensors("offsets", sizes, 2 * config.point_count * cell, "points against the priors"),
    )


FAMILY = Family(
    name="retinaface",
    task="faces",
    micro=MICRO,
    named=Named("RetinaFace finds one class with its points", things=1, keypoints="point_count"),
    build=Retinaface,
    loss=loss,
    deploy=RetinafaceDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
    more_rounds=RetinafaceConfig.with_more_rounds,
)


def _hard(value: float) -> PublishedFigure:
    return PublishedFigure(
        "AP50", value, "WIDER FACE val, hard", "PyTorch code, single scale, up to 2150 pixels"
    )


ENTRIES = (
    ModelEntry("retinaface-mnet025", FAMILY, MNET025, recipes.MNET025, "MIT", (_hard(0.8099),)),
    ModelEntry("retinaface-mnet025-relu", FAMILY, MNET025_RELU, recipes.MNET025, "MIT"),
    ModelEntry("retinaface-r50", FAMILY, R50, recipes.R50, "MIT", (_hard(0.8960),)),
    ModelEntry("retinaface-tiny", FAMILY, TINY, recipes.TINY),
)
