"""What a model says of itself: its architecture (`Family`), and one form of it under a name (`ModelEntry`).

Every `models/families/<name>/family.py` ends with `FAMILY` and `ENTRIES`; `models/registry.py` gathers them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import msgspec
from torch import Tensor, nn

from edgewise.models.data.vocabulary import Vocabulary, VocabularySize
from edgewise.models.families.layout import Layout
from edgewise.models.families.recipe import Recipe
from edgewise.models.layers.image_input import ImageInput
from edgewise.runtime.contract.fields import fields_of, with_fields
from edgewise.runtime.contract.manifest import ClassKind, Manifest, Provenance
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.system.errors import ModelError


class ModelConfig(Protocol):
    """What the config of every family is: a frozen msgspec struct of plain values that says this much."""

    @property
    def image_input(self) -> ImageInput:
        """What the training definition reads of a frame."""
        ...


@dataclass(frozen=True)
class Named:
    """How many things, stuff classes and keypoints a model names.

    Each is the config's field that counts them, or a number that the architecture fixes.

    Attributes:
        says: The rule in words, e.g. "YOLACT finds things"; it begins the refusal of another vocabulary.
    """

    says: str
    things: str | int = 0
    stuff: str | int = 0
    keypoints: str | int = 0

    def size(self, config: Any) -> VocabularySize:
        """What the model of a config names."""
        parts = (self.things, self.stuff, self.keypoints)
        return VocabularySize(*(getattr(config, part) if isinstance(part, str) else part for part in parts))

    def fit(self, config: Any, vocabulary: Vocabulary, task: str) -> Any:
        """The config that names as much as a vocabulary has.

        Raises:
            ModelError: The vocabulary has none of what the config counts, or another number of the rest.
        """
        size = vocabulary.size
        counts = ((self.things, size.things), (self.stuff, size.stuff), (self.keypoints, size.keypoints))
        if any(not count if isinstance(part, str) else count != part for part, count in counts):
            raise ModelError(
                f"{self.says}, the vocabulary has {size}",
                hint=f"give a dataset of the task {task}",
            )
        return msgspec.structs.replace(
            config, **{part: count for part, count in counts if isinstance(part, str)}
        )


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture: its config type, its published layouts, and the functions that an entry calls.

    Attributes:
        name: Of the architecture.
        task: What kind of result it gives.
        micro: The smallest config with every part, for tests. Its type is the config type of the family.
        named: How much a config's model names.
        build: The training definition with fresh weights.
        loss: Weighted scalar terms of (config, module, normalised images, targets).
        deploy: The deploy module with a copy of a training definition's weights.
        preprocessing: How frames reach network size.
        manifest: The draft of (name, config, vocabulary, provenance).
        raw_heads: Names what the training definition gives as the deploy graph's outputs and probes do, where
            both must agree on the numbers; None where they have nothing in common.
        layouts: The published forms of checkpoints.
        more_rounds: The config with twice the suppression rounds; itself, or None for the family, where the
            graph suppresses by no fixed number of them.
        as_trained: The config of what training here teaches, where published weights learnt another one;
            None where that is the config itself.
    """

    name: str
    task: str
    micro: ModelConfig
    named: Named
    build: Callable[[Any], nn.Module]
    loss: Callable[[Any, Any, Tensor, Sequence[Any]], dict[str, Tensor]]
    deploy: Callable[[Any, Any], nn.Module]
    preprocessing: Callable[[Any], Preprocess]
    manifest: Callable[[str, Any, Vocabulary, Provenance], Manifest]
    raw_heads: Callable[[Any], Mapping[str, Tensor]] | None = None
    layouts: tuple[Layout, ...] = ()
    more_rounds: Callable[[Any], Any] | None = None
    as_trained: Callable[[Any], Any] | None = None

    @property
    def config_type(self) -> type[msgspec.Struct]:
        """The frozen struct that tells one model of the family from another."""
        return cast(type[msgspec.Struct], type(self.micro))


@dataclass(frozen=True)
class PublishedFigure:
    """What the authors report for their weights, to hold an import against.

    Attributes:
        metric: As this repository calls it, where it has it.
        value: In 0..1.
        dataset: With its split.
        source: Where it stands, and what differs from this model's own conditions.
    """

    metric: str
    value: float
    dataset: str
    source: str


@dataclass(frozen=True)
class ModelEntry:
    """A model of a family under a name.

    Attributes:
        name: In the registry.
        family: Its architecture.
        config: Its sizes and thresholds, a struct of the family's config type.
        recipe: How it is trained where nothing else is asked for.
        licence: Terms of the weights that are published for it; a checkpoint that imports them keeps them.
        published: What their authors report; empty where nobody published any.
    """

    name: str
    family: Family
    config: Any
    recipe: Recipe
    licence: str = ""
    published: tuple[PublishedFigure, ...] = ()

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
        return self.from_config(msgspec.to_builtins({**msgspec.structs.asdict(self.config), **changes}))

    @property
    def fields(self) -> dict[str, Any]:
        """What `with_settings` takes: dotted names of the config's fields, with their values."""
        return fields_of(self.config)

    def with_settings(self, settings: Mapping[str, str]) -> ModelEntry:
        """The same entry with fields of the config set by name, e.g. {"input_size": "800,1344"}.

        Raises:
            ModelError: A field that the config does not have, or values that do not fit it.
        """

        def refusal(what: str, hint: str) -> ModelError:
            return ModelError(f"{self.name}: {what}", hint=hint)

        return replace(self, config=with_fields(self.config, settings, self.fields, refusal))

    def from_config(self, config: Any) -> ModelEntry:
        """The same entry with a config read from plain values (as `msgspec.to_builtins` gives them)."""
        try:
            return replace(self, config=msgspec.convert(config, self.family.config_type))
        except msgspec.ValidationError as error:
            raise ModelError(f"not a config of {self.name}: {error}") from None

    def with_more_rounds(self) -> ModelEntry | None:
        """The same entry with twice the suppression rounds; None where its graph has no fixed number."""
        more = self.config if self.family.more_rounds is None else self.family.more_rounds(self.config)
        return None if more == self.config else replace(self, config=more)

    def as_trained(self) -> ModelEntry:
        """The same entry with the conventions that training here learns."""
        learn = self.family.as_trained
        return self if learn is None else replace(self, config=learn(self.config))

    @property
    def task(self) -> str:
        """What kind of result the model gives."""
        return self.family.task

    @property
    def vocabulary_size(self) -> VocabularySize:
        """How many things, stuff classes and keypoints the model names."""
        return self.family.named.size(self.config)

    def fit(self, vocabulary: Vocabulary) -> ModelEntry:
        """The same entry with as many classes and keypoints as a vocabulary has.

        Raises:
            ModelError: The architecture cannot name such a vocabulary, or it does not list things first.
        """
        _refuse_mixed_order(vocabulary)
        return replace(self, config=self.family.named.fit(self.config, vocabulary, self.task))

    def refuse_misfit(self, vocabulary: Vocabulary) -> None:
        """Raise ModelError unless the model names exactly as much as the vocabulary has, things first."""
        _refuse_mixed_order(vocabulary)
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
        return self.config.image_input.normalise(frames)

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
        """The draft of a bundle's manifest: nothing of the weights, files, calibration or goldens yet.

        Raises:
            ModelError: The model names more or less than the vocabulary has.
        """
        self.refuse_misfit(vocabulary)
        return self.family.manifest(self.name, self.config, vocabulary, provenance)


def _refuse_mixed_order(vocabulary: Vocabulary) -> None:
    if any(label.kind is ClassKind.THING for label in vocabulary.classes[len(vocabulary.things) :]):
        raise ModelError(
            "a model wants the things before the stuff in a vocabulary", hint="sort its classes by kind"
        )
