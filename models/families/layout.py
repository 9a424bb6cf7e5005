"""How the keys of a published checkpoint become the keys of a training definition."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from edgewise.models.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Layout:
    """One published form of a family's weights.

    Attributes:
        name: What it is called in reports.
        renames: (pattern, replacement) pairs for `re.sub`, applied in order to every key.
        dropped: Patterns of published keys that are legacy and carry nothing (matched from the start).
        vocabulary: What published weights of this layout were trained to name; None where it does not say.
    """

    name: str
    renames: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None

    def drops(self, key: str) -> bool:
        """Whether a published key is legacy."""
        return any(re.match(pattern, key) for pattern in self.dropped)

    def target(self, key: str) -> str:
        """The training definition's key for a published one."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


@dataclass(frozen=True)
class Mapped:
    """A published state under the training definition's keys, and how far it fits.

    Attributes:
        tensors: Training definition's key -> tensor.
        dropped: Legacy keys left behind.
        problems: One line for each unmapped, missing, mis-shaped or doubly mapped key.
    """

    tensors: Mapping[str, Tensor]
    dropped: tuple[str, ...]
    problems: tuple[str, ...]


def map_state(
    layout: Layout, published: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> Mapped:
    """Map a published state_dict and compare it with the keys and shapes wanted."""
    kept = {key: layout.target(key) for key in published if not layout.drops(key)}
    tensors = {target: published[key] for key, target in kept.items()}
    problems = (*_doubles(kept), *_differences(kept, published, wanted))
    return Mapped(tensors, tuple(key for key in published if key not in kept), problems)


def _doubles(kept: Mapping[str, str]) -> Iterable[str]:
    first: dict[str, str] = {}
    for key, target in kept.items():
        if target in first:
            yield f"mapped twice {target}: from {first[target]} and {key}"
        first.setdefault(target, key)


def _differences(
    kept: Mapping[str, str], published: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> Iterable[str]:
    for key, target in kept.items():
        shape = tuple(published[key].shape)
        if target not in wanted:
            yield f"unmapped   {key} {list(shape)}"
        elif shape != wanted[target]:
            yield f"mis-shaped {key} {list(shape)}, the model wants {list(wanted[target])}"
    mapped = set(kept.values())
    for target, shape in wanted.items():
        if target not in mapped:
            yield f"missing    {target} {list(shape)}"
