"""The models that edgewise can build, by name.

A *family* is one architecture: a config type and the functions that give its parts. An *entry* is a name with
one config. Adding a model is adding a family's folder and its lines here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from torch import Tensor, nn

from edgewise.models.data.vocabulary import Vocabulary, VocabularySize
from edgewise.models.families.hourglass import config as hourglass_configs
from edgewise.models.families.hourglass import family as hourglass
from edgewise.models.families.hourglass import layouts as hourglass_layouts
from edgewise.models.families.layout import Layout
from edgewise.models.families.upsnet import config as upsnet_configs
from edgewise.models.families.upsnet import family as upsnet
from edgewise.models.families.upsnet import layouts as upsnet_layouts
from edgewise.models.families.yolact import config as yolact_configs
from edgewise.models.families.yolact import family as yolact
from edgewise.models.families.yolact import layouts as yolact_layouts
from edgewise.runtime.contract.manifest import Manifest, Provenance
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.system.errors import ModelError


@dataclass(frozen=True)
class Family:
    """One architecture: its config type, published layouts, and the functions that an entry calls.

    `vocabulary_size` says what a config names; `fit` gives the config that names a vocabulary, and raises
    ModelError where the architecture cannot.
    """

    name: str
    task: str
    config_type: type[msgspec.Struct]
    vocabulary_size: Callable[[Any], VocabularySize]
    fit: Callable[[Any, Vocabulary], Any]
    build: Callable[[Any], nn.Module]
    loss: Callable[[Any, nn.Module, Tensor, Sequence[Any]], dict[str, Tensor]]
    normalise: Callable[[Any, Tensor], Tensor]
    deploy: Callable[[Any, nn.Module], nn.Module]
    preprocessing: Callable[[Any], Preprocess]
    manifest: Callable[[str, Any, Vocabulary, Provenance], Manifest]
    layouts: tuple[Layout, ...]


@dataclass(frozen=True)
class ModelEntry:
    """A model's name, its family and its config."""

    name: str
    family: Family
    config: Any

    def with_config(self, **changes: Any) -> ModelEntry:
        """The same entry with fields of the config replaced, e.g. `class_count=6`; a nested struct whole.

        Raises:
            ModelError: A field that the config does not have, or a value of the wrong type.
        """
        known = self.family.config_type.__struct_fields__
        for field in changes:
            if field not in known:
                raise ModelError(
                    f"the config of {self.name} has no field {field!r}", hint=f"known: {', '.join(known)}"
                )
        return self.from_config(msgspec.to_builtins({**_fields(self.config), **changes}))

    def from_config(self, config: Any) -> ModelEntry:
        """The same entry with a config read from plain values (as `msgspec.to_builtins` gives them)."""
        try:
            return replace(self, config=msgspec.convert(config, self.family.config_type))
        except msgspec.ValidationError as error:
            raise ModelError(f"not a config of {self.name}: {error}") from None

    @property
    def task(self) -> str:
        """What kind of result the model gives."""
        return self.family.task

    @property
    def vocabulary_size(self) -> VocabularySize:
        """How many things, stuff classes and keypoints the model names."""
        return self.family.vocabulary_size(self.config)

    def fit(self, vocabulary: Vocabulary) -> ModelEntry:
        """The same entry with as many classes and keypoints as a vocabulary has.

        Raises:
            ModelError: The architecture cannot name such a vocabulary.
        """
        return replace(self, config=self.family.fit(self.config, vocabulary))

    def refuse_misfit(self, vocabulary: Vocabulary) -> None:
        """Raise ModelError unless the model names exactly as much as the vocabulary has."""
        if vocabulary.size != self.vocabulary_size:
            raise ModelError(
                f"a vocabulary of {vocabulary.size} for the {self.vocabulary_size} of {self.name}",
                hint="vocabulary and config of a checkpoint belong together; import or train it again",
            )

    def build(self) -> nn.Module:
        """The training definition with fresh weights drawn from torch's global generator."""
        return self.family.build(self.config)

    def loss(self, module: nn.Module, images: Tensor, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Weighted scalar loss terms; their sum is the total. `module` must be in training mode."""
        return self.family.loss(self.config, module, images, targets)

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] BGR at network size -> the float tensor that the training definition reads."""
        return self.family.normalise(self.config, frames)

    def deploy(self, module: nn.Module) -> nn.Module:
        """The deploy module: uint8 [N, H, W, 3] frames -> the manifest's outputs, then its probes."""
        return self.family.deploy(self.config, module)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The published forms of this family's checkpoints."""
        return self.family.layouts

    @property
    def preprocess(self) -> Preprocess:
        """How frames reach network size, in training as on the device."""
        return self.family.preprocessing(self.config)

    def manifest(self, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
        """The draft of a bundle's manifest: no files, precisions, calibration, goldens or budgets yet.

        Raises:
            ModelError: The model names more or less than the vocabulary has.
        """
        self.refuse_misfit(vocabulary)
        return self.family.manifest(self.name, self.config, vocabulary, provenance)


def _fields(config: msgspec.Struct) -> dict[str, Any]:
    return {field: getattr(config, field) for field in config.__struct_fields__}


YOLACT = Family(
    name="yolact",
    task="instances",
    config_type=yolact_configs.YolactConfig,
    vocabulary_size=yolact.vocabulary_size,
    fit=yolact.fit,
    build=yolact.build,
    loss=yolact.loss,
    normalise=yolact.normalise,
    deploy=yolact.deploy,
    preprocessing=yolact.preprocessing,
    manifest=yolact.manifest,
    layouts=yolact_layouts.LAYOUTS,
)

UPSNET = Family(
    name="upsnet",
    task="panoptic",
    config_type=upsnet_configs.UpsnetConfig,
    vocabulary_size=upsnet.vocabulary_size,
    fit=upsnet.fit,
    build=upsnet.build,
    loss=upsnet.loss,
    normalise=upsnet.normalise,
    deploy=upsnet.deploy,
    preprocessing=upsnet.preprocessing,
    manifest=upsnet.manifest,
    layouts=upsnet_layouts.LAYOUTS,
)

HOURGLASS = Family(
    name="hourglass",
    task="keypoints",
    config_type=hourglass_configs.HourglassConfig,
    vocabulary_size=hourglass.vocabulary_size,
    fit=hourglass.fit,
    build=hourglass.build,
    loss=hourglass.loss,
    normalise=hourglass.normalise,
    deploy=hourglass.deploy,
    preprocessing=hourglass.preprocessing,
    manifest=hourglass.manifest,
    layouts=hourglass_layouts.LAYOUTS,
)

_ENTRIES = {
    entry.name: entry
    for entry in (
        ModelEntry("yolact-r50", YOLACT, yolact_configs.R50),
        ModelEntry("yolact-r101", YOLACT, yolact_configs.R101),
        ModelEntry("yolact-darknet53", YOLACT, yolact_configs.DARKNET53),
        ModelEntry("yolact-tiny", YOLACT, yolact_configs.TINY),
        ModelEntry("upsnet-r50-coco", UPSNET, upsnet_configs.R50_COCO),
        ModelEntry("upsnet-r50-cityscapes", UPSNET, upsnet_configs.R50_CITYSCAPES),
        ModelEntry("upsnet-tiny", UPSNET, upsnet_configs.TINY),
        ModelEntry("hourglass-1", HOURGLASS, hourglass_configs.published(1)),
        ModelEntry("hourglass-2", HOURGLASS, hourglass_configs.published(2)),
        ModelEntry("hourglass-8", HOURGLASS, hourglass_configs.published(8)),
        ModelEntry("hourglass-2-princeton", HOURGLASS, hourglass_configs.princeton(2)),
        ModelEntry("hourglass-8-princeton", HOURGLASS, hourglass_configs.princeton(8)),
        ModelEntry("hourglass-tiny", HOURGLASS, hourglass_configs.TINY),
    )
}


def register(entry: ModelEntry) -> None:
    """Make a model known by its name, as the models above are.

    Raises:
        ModelError: The name is taken.
    """
    if entry.name in _ENTRIES:
        raise ModelError(f"a model is called {entry.name!r} already", hint="choose another name")
    _ENTRIES[entry.name] = entry


def unregister(name: str) -> None:
    """Forget a model that `register` added; ModelError where no such model is known."""
    find(name)
    del _ENTRIES[name]


def names() -> tuple[str, ...]:
    """All model names, in the order of the registry."""
    return tuple(_ENTRIES)


def find(name: str) -> ModelEntry:
    """The entry of a name.

    Raises:
        ModelError: No such model; the message lists the known ones.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    close = difflib.get_close_matches(name, _ENTRIES, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ModelError(f"unknown model {name!r}", hint=f"{meant}known models: {', '.join(_ENTRIES)}")
