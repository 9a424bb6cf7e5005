"""Reading a graph's outputs: present, of the right shape and type, or one error that names the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.pixels.geometry import Geometry
from edgewise.runtime.system.errors import ResultError

Outputs = Mapping[str, NDArray[Any]]


def only_look(looks: Looks, outputs: Sequence[Outputs]) -> tuple[Geometry, Outputs]:
    """The geometry of the one look at a whole frame, and what the graph gave for it.

    Raises:
        ResultError: Several looks were taken, or none.
    """
    if len(looks.looks) != 1:
        raise ResultError(
            f"a result of one look was wanted, {len(looks.looks)} were taken",
            hint="this kind of result needs a preprocessing of the whole frame",
        )
    return looks.looks[0].geometry, outputs[0]


def read_output(
    outputs: Outputs, name: str, shape: tuple[int | None, ...], *dtypes: type[np.generic]
) -> NDArray[Any]:
    """The output `name`; its sides must be those of `shape` (None: any but 0), its type one of `dtypes`.

    Raises:
        ResultError: It is missing, or has another shape or type.
    """
    if name not in outputs:
        raise ResultError(
            f"the engine gave no output {name!r}; it gave {', '.join(sorted(outputs)) or 'nothing'}",
            hint="run `edgewise selftest` on the bundle",
        )
    array = outputs[name]
    fits = array.ndim == len(shape) and all(
        size > 0 if expected is None else size == expected
        for size, expected in zip(array.shape, shape, strict=True)
    )
    wanted = ["any" if size is None else size for size in shape]
    require(fits, name, f"has the shape {list(array.shape)}; it must be {wanted}")
    kinds = " or ".join(np.dtype(dtype).name for dtype in dtypes)
    require(array.dtype.type in dtypes, name, f"is {array.dtype}; it must be {kinds}")
    return array


def read_scores(outputs: Outputs, name: str) -> NDArray[np.float32]:
    """float32 [K] from an output [1, K] of scores; K may be 0.

    Raises:
        ResultError: As `read_output`, or a score is not within 0..1.
    """
    slots = outputs[name].shape[-1] if name in outputs and outputs[name].ndim else None
    scores = read_output(outputs, name, (1, slots), np.float32)[0]
    require(np.isfinite(scores).all(), name, "holds a score that is not a number")
    require(((scores >= 0) & (scores <= 1 + 1e-3)).all(), name, "holds a score outside 0..1")
    return scores


def read_settled(outputs: Outputs, name: str | None) -> bool:
    """Whether the suppression of a frame is proven to be done; `name` is the flag's output, if there is one.

    Raises:
        ResultError: As `read_output`.
    """
    return name is None or bool(read_output(outputs, name, (1,), np.int32, np.int64)[0])


def require(holds: bool | np.bool_, name: str, problem: str) -> None:
    """Raise that the output `name` has the problem, unless the condition holds."""
    if not holds:
        raise ResultError(
            f"the output {name!r} {problem}", hint="run `edgewise selftest` on the bundle, or export it again"
        )
