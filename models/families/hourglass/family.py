"""Stacked Hourglass as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import msgspec
import torch
from torch import Tensor, nn

from edgewise.models.data.vocabulary import Vocabulary, VocabularySize
from edgewise.models.families.hourglass.config import HourglassConfig
from edgewise.models.families.hourglass.deploy import HourglassDeploy
from edgewise.models.families.hourglass.losses import losses
from edgewise.models.families.hourglass.network import StackedHourglass
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.contract.manifest import DType, Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop
from edgewise.runtime.system.errors import ModelError


def vocabulary_size(config: HourglassConfig) -> VocabularySize:
    """One class, the figure whose keypoints are found, and those."""
    return VocabularySize(things=1, keypoints=config.keypoint_count)


def fit(config: HourglassConfig, vocabulary: Vocabulary) -> HourglassConfig:
    """The config for as many keypoints as the vocabulary has.

    Raises:
        ModelError: The vocabulary has no keypoints, or other classes than the one figure.
    """
    size = vocabulary.size
    if size.keypoints == 0 or size.things != 1 or size.stuff != 0:
        raise ModelError(
            f"Stacked Hourglass finds the keypoints of one class, the vocabulary has {size}",
            hint="give a dataset of keypoints (keypoints.json of a scenes folder)",
        )
    return msgspec.structs.replace(config, keypoint_count=size.keypoints)


def build(config: HourglassConfig) -> StackedHourglass:
    """The training definition with fresh weights drawn from torch's global generator."""
    return StackedHourglass(config)


def loss(
    config: HourglassConfig, module: nn.Module, images: Tensor, targets: Sequence[KeypointTargets]
) -> dict[str, Tensor]:
    """Weighted loss terms, one a stack, of normalised crops float32 [N, 3, H, W]."""
    return losses(config, module(images), targets)


def normalise(config: HourglassConfig, frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] BGR -> float32 [N, 3, H, W] RGB, value / 255 - mean."""
    mean = torch.tensor(config.mean, device=frames.device).view(3, 1, 1)
    return frames.permute(0, 3, 1, 2).flip(1).float() / 255.0 - mean


def deploy(config: HourglassConfig, module: nn.Module) -> HourglassDeploy:
    """The deploy graph with a copy of the module's weights."""
    assert isinstance(module, StackedHourglass)
    return HourglassDeploy(config, module)


def preprocessing(config: HourglassConfig) -> AffineCrop:
    """A crop around the person's box, bilinear; black outside of the frame, before the mean is subtracted."""
    return AffineCrop(size=config.input_size, padding=config.padding)


def manifest(name: str, config: HourglassConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest: no files, precisions, calibration, goldens or budgets yet."""
    height, width = config.input_size
    image = TensorSpec(
        name="image",
        dtype=DType.UINT8,
        shape=(1, height, width, 3),
        meaning="BGR pixels of the crop around one person",
        value_range=(0.0, 255.0),
    )
    heatmaps = TensorSpec(
        name="heatmaps",
        dtype=DType.FLOAT32,
        shape=(1, config.keypoint_count, *config.heatmap_size),
        meaning="about 1 where the keypoint lies, about 0 elsewhere; a cell is 4 x 4 input pixels",
    )
    return Manifest(
        writer=f"edgewise {version('edgewise')}",
        name=name,
        classes=vocabulary.classes,
        keypoints=vocabulary.keypoints,
        provenance=provenance,
        graphs={"main": Graph(inputs=(image,), outputs=(heatmaps,))},
        preprocess=preprocessing(config),
        postprocess=HeatmapKeypoints(),
    )
