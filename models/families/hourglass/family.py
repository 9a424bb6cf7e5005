"""Stacked Hourglass as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.hourglass import recipes
from edgewise.models.families.hourglass.config import MICRO, TINY, HourglassConfig, princeton, published
from edgewise.models.families.hourglass.deploy import HourglassDeploy
from edgewise.models.families.hourglass.layouts import LAYOUTS
from edgewise.models.families.hourglass.losses import losses
from edgewise.models.families.hourglass.network import StackedHourglass
from edgewise.models.families.tensors import float_tensor, frame_tensor
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop


def loss(
    config: HourglassConfig, module: nn.Module, images: Tensor, targets: Sequence[KeypointTargets]
) -> dict[str, Tensor]:
    """Weighted loss terms, one a stack, of normalised crops float32 [N, 3, H, W]."""
    return losses(config, module(images), targets)


def preprocessing(config: HourglassConfig) -> AffineCrop:
    """A crop around the person's box, bilinear; black outside of the frame, before the mean is subtracted."""
    return AffineCrop(size=config.input_size, padding=config.padding, corners=config.corners)


def manifest(name: str, config: HourglassConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest: no files, precisions, calibration, goldens or budgets yet."""
    image = frame_tensor(config.input_size, "BGR pixels of the crop around one person")
    heatmaps = float_tensor(
        "heatmaps",
        (1, config.keypoint_count, *config.heatmap_size),
        "about 1 where the keypoint lies, about 0 elsewhere; a cell is 4 x 4 input pixels",
    )
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(inputs=(image,), outputs=(heatmaps,)),
        preprocessing(config),
        HeatmapKeypoints(decoding=config.decoding),
    )


def raw_heads(heatmaps: Sequence[Tensor]) -> dict[str, Tensor]:
    """The graph's output: what the last stack gives."""
    return {"heatmaps": heatmaps[-1]}


FAMILY = Family(
    name="hourglass",
    task="keypoints",
    micro=MICRO,
    named=Named("Stacked Hourglass finds the keypoints of one class", things=1, keypoints="keypoint_count"),
    build=StackedHourglass,
    loss=loss,
    deploy=HourglassDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
)


def _pckh(value: float, repository: str) -> tuple[PublishedFigure, ...]:
    return (PublishedFigure("PCKh@0.5", value, "MPII val", f"README of {repository}"),)


_JOINT = "GPL-3.0 (of the code they were trained with; the weights state no terms of their own)"
_AUTHORS = "BSD-3-Clause (of the code they were trained with; the weights state no terms of their own)"
_JOINT_SOURCE, _AUTHORS_SOURCE = "bearpaw/pytorch-pose", "princeton-vl/pytorch_stacked_hourglass"

ENTRIES = (
    ModelEntry("hourglass-1", FAMILY, published(1), recipes.MPII, _JOINT),
    ModelEntry("hourglass-2", FAMILY, published(2), recipes.MPII, _JOINT, _pckh(0.8695, _JOINT_SOURCE)),
    ModelEntry("hourglass-8", FAMILY, published(8), recipes.MPII, _JOINT, _pckh(0.8878, _JOINT_SOURCE)),
    ModelEntry(
        "hourglass-2-princeton", FAMILY, princeton(2), recipes.MPII, _AUTHORS, _pckh(0.883, _AUTHORS_SOURCE)
    ),
    ModelEntry(
        "hourglass-8-princeton", FAMILY, princeton(8), recipes.MPII, _AUTHORS, _pckh(0.902, _AUTHORS_SOURCE)
    ),
    ModelEntry("hourglass-tiny", FAMILY, TINY, recipes.TINY),
)
