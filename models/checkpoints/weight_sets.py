"""The sets of weights in one file: under wrappers, behind prefixes, beside an average of themselves.

`{"state_dict": {"model.conv.weight": ...}}`, `{"ema": {"module": {...}}}` and `student.conv.weight` are one
thing: a tree of names with tensors at its leaves. A network may hang at any node of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class WeightSet:
    """A node of the tree with everything below it.

    Attributes:
        path: Where it hangs, e.g. `ema.module`; empty for the whole tree.
        tensors: Name below the node -> tensor.
        beside: What of the tree lies elsewhere, e.g. `n_averaged` or `model (377 tensors)`.
    """

    path: str
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()

    def is_called(self, name: str) -> bool:
        """Whether `name` is the path or one of its parts."""
        return f".{name}." in f".{self.path}."

    def lies_in(self, path: str) -> bool:
        """Whether this is the node at `path`, or below it."""
        return not path or f"{self.path}.".startswith(f"{path}.")


def flatten(content: Any) -> dict[str, Tensor]:
    """Every tensor in nested mappings by its names joined with dots; what has other keys is left out."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", content)], set()
    while waiting:
        prefix, value = waiting.pop()
        if isinstance(value, Tensor):
            found[prefix] = value
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            named = ((f"{prefix}.{key}" if prefix else key, below) for key, below in value.items()
                     if isinstance(key, str))  # fmt: skip
            waiting += reversed(list(named))
    return found


def weight_sets(tensors: Mapping[str, Tensor], fewest: int) -> list[WeightSet]:
    """The whole tree, and every node with at least `fewest` tensors below it, outermost first."""
    counts = Counter(node for name in tensors for node in _ancestors(name))
    nodes = sorted(
        (node for node, count in counts.items() if count >= fewest), key=lambda node: node.count(".")
    )
    return [WeightSet("", tensors), *(_below(node, tensors) for node in nodes)]


def _below(node: str, tensors: Mapping[str, Tensor]) -> WeightSet:
    start = f"{node}."
    inside = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    return WeightSet(
        node, inside, tuple(_beside(node, (name for name in tensors if not name.startswith(start))))
    )


def _beside(node: str, others: Iterable[str]) -> Iterable[str]:
    """The outermost nodes that hold all `others` and nothing of `node`."""
    mine = {"", *_ancestors(f"{node}.")}
    counts = Counter(next(part for part in (*_ancestors(name), name) if part not in mine) for name in others)
    for name, count in counts.items():
        yield name if count == 1 else f"{name} ({count} tensors)"


def _ancestors(name: str) -> Iterable[str]:
    """`a.b.c` -> `a`, `a.b`."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])
