"""YOLACT as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import msgspec
import torch
from torch import Tensor, nn

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.vocabulary import Vocabulary, VocabularySize
from edgewise.models.families.yolact.config import Suppression, YolactConfig
from edgewise.models.families.yolact.deploy import YolactDeploy
from edgewise.models.families.yolact.losses import losses
from edgewise.models.families.yolact.network import Yolact
from edgewise.runtime.contract.manifest import DType, Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import PrototypeInstances
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.system.errors import ModelError


def vocabulary_size(config: YolactConfig) -> VocabularySize:
    """The things that the model names; the background is not one."""
    return VocabularySize(things=config.class_count)


def fit(config: YolactConfig, vocabulary: Vocabulary) -> YolactConfig:
    """The config for as many things as the vocabulary has.

    Raises:
        ModelError: The vocabulary has no things, or stuff.
    """
    if not vocabulary.things or vocabulary.stuff:
        raise ModelError(
            f"YOLACT finds things, the vocabulary has {vocabulary.size}",
            hint="give a dataset of instances (instances.json of a scenes folder)",
        )
    return msgspec.structs.replace(config, class_count=len(vocabulary.things))


def build(config: YolactConfig) -> Yolact:
    """The training definition with fresh weights drawn from torch's global generator."""
    return Yolact(config)


def loss(
    config: YolactConfig, module: nn.Module, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Weighted loss terms of normalised images float32 [N, 3, H, W]."""
    assert isinstance(module, Yolact)
    return losses(config, module.priors, module(images), targets)


def normalise(config: YolactConfig, frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] BGR -> float32 [N, 3, H, W] RGB, (value - mean) / std."""
    mean = torch.tensor(config.mean, device=frames.device).view(3, 1, 1)
    std = torch.tensor(config.std, device=frames.device).view(3, 1, 1)
    return (frames.permute(0, 3, 1, 2).flip(1).float() - mean) / std


def deploy(config: YolactConfig, module: nn.Module) -> YolactDeploy:
    """The deploy graph with a copy of the module's weights."""
    assert isinstance(module, Yolact)
    return YolactDeploy(config, module)


def manifest(name: str, config: YolactConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    height, width = config.input_size
    greedy = config.decoding.suppression is Suppression.GREEDY
    image = TensorSpec(
        name="image",
        dtype=DType.UINT8,
        shape=(1, height, width, 3),
        meaning="BGR pixels",
        value_range=(0.0, 255.0),
    )
    return Manifest(
        writer=f"edgewise {version('edgewise')}",
        name=name,
        classes=vocabulary.classes,
        provenance=provenance,
        graphs={"main": Graph(inputs=(image,), outputs=_outputs(config), probes=_probes(config))},
        preprocess=preprocessing(config),
        postprocess=PrototypeInstances(settled="settled" if greedy else None),
    )


def preprocessing(config: YolactConfig) -> Stretch:
    """The published models stretch the frame to a square, bilinear, half-pixel centres, no antialias."""
    return Stretch(size=config.input_size)


def _outputs(config: YolactConfig) -> tuple[TensorSpec, ...]:
    slots = config.decoding.slots
    outputs = (
        _float("boxes", (1, slots, 4), "x1, y1, x2, y2 in input pixels, corner convention, not clamped"),
        _float("scores", (1, slots), "falling; 0 marks an empty slot", (0.0, 1.0)),
        TensorSpec(
            name="classes",
            dtype=DType.INT32,
            shape=(1, slots),
            meaning="index into the manifest's classes",
            value_range=(0.0, config.class_count - 1.0),
        ),
        _float(
            "masks",
            (1, slots, *config.prototype_size),
            "probability over the whole input, 0 outside the widened box",
            (0.0, 1.0),
        ),
    )
    if config.decoding.suppression is not Suppression.GREEDY:
        return outputs
    settled = TensorSpec(
        name="settled",
        dtype=DType.INT32,
        shape=(1,),
        meaning="1: the suppression is proven to be done",
        value_range=(0.0, 1.0),
    )
    return (*outputs, settled)


def _probes(config: YolactConfig) -> tuple[TensorSpec, ...]:
    count, prototypes = config.prior_count, config.prototypes.count
    return (
        _float("loc", (1, count, 4), "box regression against the priors"),
        _float("conf", (1, count, 1 + config.class_count), "class logits, background first"),
        _float("coefficients", (1, count, prototypes), "mask coefficients", (-1.0, 1.0)),
        _float("prototypes", (1, prototypes, *config.prototype_size), "mask prototypes, not negative"),
    )


def _float(
    name: str, shape: tuple[int, ...], meaning: str, value_range: tuple[float, float] | None = None
) -> TensorSpec:
    return TensorSpec(name=name, dtype=DType.FLOAT32, shape=shape, meaning=meaning, value_range=value_range)
