"""What the arrays of a result of n things must be, whatever the kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.system.errors import ResultError

Expected = tuple[NDArray[Any], tuple[int, ...], type[np.generic]]
"""An array, and the shape and dtype that it must have."""


def require_arrays(of: str, expected: Mapping[str, Expected]) -> None:
    """Every array has its shape and dtype.

    Args:
        of: Whose arrays they are, with the verb, for the error: `"3 instances are"`.
        expected: By what an array is called.

    Raises:
        ResultError: One has not; it is named.
    """
    for name, (array, shape, dtype) in expected.items():
        if array.shape != shape or array.dtype != dtype:
            raise ResultError(
                f"the {name} of {of} {array.dtype} {list(array.shape)}, not {np.dtype(dtype)} {list(shape)}"
            )


def require_known_classes(classes: NDArray[np.int32], labels: tuple[ClassLabel, ...]) -> None:
    """Every class index has a label; raises ResultError where one has none."""
    if len(classes) and not (classes.min() >= 0 and classes.max() < len(labels)):
        raise ResultError(f"a class index lies outside the {len(labels)} labels")


def require_frame(frame: NDArray[Any], frame_size: tuple[int, int]) -> None:
    """A frame to draw on is uint8 [height, width, 3] of the result's (height, width); else ResultError."""
    if frame.dtype != np.uint8 or frame.shape != (*frame_size, 3):
        raise ResultError(
            f"the frame to draw on is {frame.dtype} {list(frame.shape)}; the result belongs to a uint8 "
            f"{[*frame_size, 3]} frame"
        )
