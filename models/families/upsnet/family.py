"""UPSNet as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import msgspec
import torch
from torch import Tensor, nn

from edgewise.models.data.vocabulary import Vocabulary, VocabularySize
from edgewise.models.families.upsnet.config import ColourOrder, UpsnetConfig
from edgewise.models.families.upsnet.deploy import UpsnetDeploy
from edgewise.models.families.upsnet.losses import losses
from edgewise.models.families.upsnet.network import Upsnet
from edgewise.models.tasks.panoptic.targets import PanopticTargets
from edgewise.runtime.contract.manifest import ClassKind, DType, Graph, Manifest, Provenance, TensorSpec
from edgewise.runtime.contract.postprocessing import PanopticSegments
from edgewise.runtime.contract.preprocessing import Letterbox, PadSide
from edgewise.runtime.system.errors import ModelError


def vocabulary_size(config: UpsnetConfig) -> VocabularySize:
    """The things and the stuff that the model names."""
    return VocabularySize(things=config.thing_count, stuff=config.stuff_count)


def fit(config: UpsnetConfig, vocabulary: Vocabulary) -> UpsnetConfig:
    """The config for as many things and stuff classes as the vocabulary has.

    Raises:
        ModelError: The vocabulary lacks things or stuff, or does not list things first.
    """
    if not vocabulary.things or not vocabulary.stuff:
        raise ModelError(
            f"UPSNet names things and stuff, the vocabulary has {vocabulary.size}",
            hint="give a panoptic dataset (panoptic.json of a scenes folder)",
        )
    _refuse_mixed_order(vocabulary)
    return msgspec.structs.replace(
        config, thing_count=len(vocabulary.things), stuff_count=len(vocabulary.stuff)
    )


def build(config: UpsnetConfig) -> Upsnet:
    """The training definition with fresh weights drawn from torch's global generator."""
    return Upsnet(config)


def loss(
    config: UpsnetConfig, module: nn.Module, images: Tensor, targets: Sequence[PanopticTargets]
) -> dict[str, Tensor]:
    """Weighted loss terms of normalised images float32 [N, 3, H, W]."""
    assert isinstance(module, Upsnet)
    return losses(config, module, images, targets)


def normalise(config: UpsnetConfig, frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] BGR -> float32 [N, 3, H, W], (value - mean) / std, in the config's colour order."""
    mean = torch.tensor(config.mean, device=frames.device).view(3, 1, 1)
    std = torch.tensor(config.std, device=frames.device).view(3, 1, 1)
    images = (frames.permute(0, 3, 1, 2).float() - mean) / std
    return images.flip(1) if config.colour is ColourOrder.RGB else images


def deploy(config: UpsnetConfig, module: nn.Module) -> UpsnetDeploy:
    """The deploy graph with a copy of the module's weights."""
    assert isinstance(module, Upsnet)
    return UpsnetDeploy(config, module)


def manifest(name: str, config: UpsnetConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest: everything but files, precisions, calibration, goldens and budgets.

    Raises:
        ModelError: The vocabulary does not list things first.
    """
    _refuse_mixed_order(vocabulary)
    height, width = config.input_size
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
        postprocess=PanopticSegments(settled="settled", stuff_area_limit=config.decoding.stuff_area_limit),
    )


def preprocessing(config: UpsnetConfig) -> Letterbox:
    """One factor for both sides, the rest of the canvas in the mean colour at the bottom and the right.

    The published inference scales the shorter side to a given length instead and pads to a multiple of 32; a
    graph of fixed shape takes every frame on one canvas.
    """
    blue, green, red = (round(value) for value in config.mean)
    return Letterbox(size=config.input_size, pad_value=(blue, green, red), pad_side=PadSide.BOTTOM_RIGHT)


def _refuse_mixed_order(vocabulary: Vocabulary) -> None:
    kinds = [label.kind for label in vocabulary.classes]
    if ClassKind.THING in kinds[len(vocabulary.things) :]:
        raise ModelError(
            "UPSNet wants the things before the stuff in a vocabulary", hint="sort its classes by kind"
        )


def _outputs(config: UpsnetConfig) -> tuple[TensorSpec, ...]:
    slots, (height, width) = config.decoding.slots, config.panoptic_size
    last = config.class_count - 1.0
    return (
        _float(
            "boxes", (1, slots, 4), "x1, y1, x2, y2 in input pixels, corner convention, inside the canvas"
        ),
        _float("scores", (1, slots), "0 marks an empty slot", (0.0, 1.0)),
        _int("classes", (1, slots), "index into the manifest's classes", (0.0, config.thing_count - 1.0)),
        _int(
            "segments",
            (1, height, width),
            "stuff class, or number of stuff classes + slot, or (last value) unknown",
            (0.0, float(config.stuff_count + slots)),
        ),
        _int("semantic", (1, height, width), "index into the manifest's classes", (0.0, last)),
        _int("settled", (1,), "1: suppressions and pruning are proven to be done", (0.0, 1.0)),
    )


def _probes(config: UpsnetConfig) -> tuple[TensorSpec, ...]:
    stride = config.backbone.stage_strides[0]
    height, width = config.input_size[0] // stride, config.input_size[1] // stride
    return (
        *_maps("objectness", config, 1, "logits of the anchors"),
        *_maps("deltas", config, 4, "box regression against the anchors"),
        _float("fcn_score", (1, config.class_count, height, width), "semantic logits, stuff first"),
    )


def _maps(name: str, config: UpsnetConfig, width: int, meaning: str) -> list[TensorSpec]:
    """One tensor a level of the proposal network, `width` values an anchor."""
    channels = width * config.anchors_per_cell
    return [
        _float(f"{name}_{level}", (1, channels, *size), f"{meaning}, level {level}")
        for level, size in enumerate(config.level_sizes)
    ]


def _float(
    name: str, shape: tuple[int, ...], meaning: str, value_range: tuple[float, float] | None = None
) -> TensorSpec:
    return TensorSpec(name=name, dtype=DType.FLOAT32, shape=shape, meaning=meaning, value_range=value_range)


def _int(name: str, shape: tuple[int, ...], meaning: str, value_range: tuple[float, float]) -> TensorSpec:
    return TensorSpec(name=name, dtype=DType.INT32, shape=shape, meaning=meaning, value_range=value_range)
