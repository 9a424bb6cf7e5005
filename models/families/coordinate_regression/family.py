"""Coordinate regression as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from torch import Tensor, nn

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.coordinate_regression import recipes
from edgewise.models.families.coordinate_regression.config import (
    DEEPPOSE_WFLW,
    GDCONV_300W,
    MICRO,
    PFLD_WFLW,
    TINY,
    TINY_FACE,
    RegressionConfig,
)
from edgewise.models.families.coordinate_regression.deploy import RegressionDeploy
from edgewise.models.families.coordinate_regression.layouts import LAYOUTS
from edgewise.models.families.coordinate_regression.losses import losses
from edgewise.models.families.coordinate_regression.network import build
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.tensors import float_tensor, frame_tensor
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import PointOrigin, RegressedKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop, SquareCrop


def loss(
    config: RegressionConfig, module: nn.Module, images: Tensor, targets: Sequence[KeypointTargets]
) -> dict[str, Tensor]:
    """Weighted loss terms of normalised crops float32 [N, 3, H, W]."""
    return losses(config, module(images), targets)


def preprocessing(config: RegressionConfig) -> AffineCrop | SquareCrop:
    """The crop around a box."""
    return config.box.crop(config.input_size)


def manifest(name: str, config: RegressionConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest: no files, precisions, calibration, goldens or budgets yet."""
    image = frame_tensor(config.input_size, "BGR pixels of the crop around one person or face")
    points = float_tensor(
        "points", (1, config.keypoint_count, 2), "x and y as shares of the input, 0..1 inside of it"
    )
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(inputs=(image,), outputs=(points,)),
        preprocessing(config),
        RegressedKeypoints(origin=config.origin, flip_shift=config.flip_shift),
    )


def raw_heads(points: Tensor) -> dict[str, Tensor]:
    """The graph's output."""
    return {"points": points}


def as_trained(config: RegressionConfig) -> RegressionConfig:
    """Targets here are continuous coordinates."""
    return msgspec.structs.replace(config, origin=PointOrigin.CORNER, flip_shift=False)


FAMILY = Family(
    name="coordinate-regression",
    task="keypoints",
    micro=MICRO,
    named=Named("a coordinate regressor finds the points of one class", things=1, keypoints="keypoint_count"),
    build=build,
    loss=loss,
    deploy=RegressionDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
    as_trained=as_trained,
)

_UNLICENSED = "none stated: its repository has no licence file, so nobody else may pass the weights on"

_NME = "NME inter-ocular"

ENTRIES = (
    ModelEntry(
        "deeppose-r50",
        FAMILY,
        DEEPPOSE_WFLW,
        recipes.DEEPPOSE,
        "Apache-2.0",
        (PublishedFigure(_NME, 0.0467, "WFLW test", "model zoo of mmpose, deeppose_res50 with Wing loss"),),
    ),
    ModelEntry("pfld", FAMILY, PFLD_WFLW, recipes.PFLD, _UNLICENSED),
    ModelEntry(
        "mobilenetv2-gdconv",
        FAMILY,
        GDCONV_300W,
        recipes.DEEPPOSE,
        _UNLICENSED,
        (PublishedFigure(_NME, 0.0439, "300-W full set", "README of cunjian/pytorch_face_landmark"),),
    ),
    ModelEntry("deeppose-tiny", FAMILY, TINY, recipes.TINY),
    ModelEntry("pfld-tiny", FAMILY, TINY_FACE, recipes.TINY_FACE),
)
