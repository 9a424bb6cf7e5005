"""A kind of result: one row that says everything which differs from kind to kind on a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import Postprocess
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.outputs import Outputs
from edgewise.runtime.results.result import Record, Result, Scored

SpecT = TypeVar("SpecT", bound=Postprocess)
FoundT = TypeVar("FoundT", bound=Result)


@dataclass(frozen=True)
class Nouns:
    """What reports call one thing of a result, several of them, and how alike two of them are."""

    thing: str
    things: str
    similarity: str


@dataclass(frozen=True, eq=False)
class Likeness:
    """Every pair of n reference and m candidate things; a result without scores is one thing.

    Attributes:
        similarity: float64 [n, m], 0..1.
        affinity: float64 [n, m], 0..1, by which partners are found; the similarity, except where two things
            are equal whatever they are (empty masks).
    """

    similarity: NDArray[np.float64]
    affinity: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutputRoles:
    """How a graph's outputs are compared; what is named in neither way is a float tensor.

    Attributes:
        slots: The output of sorted slots' scores, compared slot by slot, because two near-equal things may
            change places; the other outputs of the slots then say nothing. None where there are no slots.
        maps: int64 maps of class numbers, by the output that they come from: compared pixel by pixel.
    """

    slots: str | None = None
    maps: Mapping[str, NDArray[np.int64]] = field(default_factory=dict[str, NDArray[np.int64]])


class Sink(Protocol):
    """Takes every result of a run in order."""

    def write(self, frame: Frame, result: Any) -> None: ...

    def close(self) -> None:
        """Finish the files, so that they are valid with what was written so far."""
        ...


@dataclass(frozen=True)
class SinkForm:
    """Files of a run that only one kind writes.

    Attributes:
        names: Of the files and folders.
        open: Called with their paths, in the order of the names, and the manifest.
    """

    names: tuple[str, ...]
    open: Callable[[Sequence[Path], Manifest], Sink]


@dataclass(frozen=True)
class Smoothing:
    """How strongly places are smoothed over time, by the One Euro filter's own names and defaults.

    Attributes:
        cutoff: Hz, of what does not move; less is smoother and later.
        beta: Hz more for each pixel a second; more follows what is fast sooner.
        derivative_cutoff: Hz, of the speed.
    """

    cutoff: float = 1.0
    beta: float = 0.007
    derivative_cutoff: float = 1.0


def as_float_tensors(spec: Any, manifest: Manifest, outputs: Outputs) -> OutputRoles:
    """No slots and no maps: every output is a float tensor."""
    del spec, manifest, outputs
    return OutputRoles()


def never_mirrored(spec: Any) -> bool:
    """Looks are taken as they are."""
    del spec
    return False


def classes_seen(result: Any, threshold: float) -> Counter[str]:
    """How many things of each class score at least the threshold."""
    scored: Scored = result
    return Counter(scored.labels[index].name for index in scored.classes[scored.scores >= threshold].tolist())


@dataclass(frozen=True)
class Kind(Generic[SpecT, FoundT]):
    """One kind of result.

    Attributes:
        spec: The struct that a manifest names it by.
        nouns: For reports and tables.
        decode: From the outputs of every look at one frame to the result in source coordinates.
        read: From the records of one image of (height, width) to the result, for goldens.
        alike: How alike every pair of things in two results is; ResultError where they cannot be compared.
        compared: How the graph's outputs are compared.
        mirrored: Whether each look is also taken at its mirror image.
        counts: What was seen from a score on, by name.
        extent: Title and values of a column with what tables say of each thing besides class, score and box.
        sinks: Files that only this kind writes.
        smoothing: Makes a filter over time: called with every result of consecutive frames and the frame's
            time in seconds, it gives the smoothed result. None where there is nothing to smooth.
    """

    spec: type[SpecT]
    nouns: Nouns
    decode: Callable[[SpecT, Manifest, Looks, Sequence[Outputs]], FoundT]
    read: Callable[[SpecT, Manifest, Sequence[Record], Size], FoundT]
    alike: Callable[[FoundT, FoundT], Likeness]
    compared: Callable[[SpecT, Manifest, Outputs], OutputRoles] = as_float_tensors
    mirrored: Callable[[SpecT], bool] = never_mirrored
    counts: Callable[[FoundT, float], Counter[str]] = classes_seen
    extent: Callable[[FoundT], tuple[str, list[str]]] | None = None
    sinks: tuple[SinkForm, ...] = ()
    smoothing: Callable[[Smoothing], Callable[[FoundT, float], FoundT]] | None = None
