"""Results as the package supervision holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.masks import BoolArray
from edgewise.runtime.system.errors import ResultError


def to_detections(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    names: Sequence[str],
    masks: BoolArray | None = None,
) -> Any:
    """`supervision.Detections`; `data["class_name"]` has the names.

    Args:
        boxes: [n, 4], xyxy.
        scores: [n].
        classes: [n].
        names: n class names.
        masks: [n, height, width], where the things have any.

    Raises:
        ResultError: The package supervision is not installed.
    """
    return _supervision().Detections(
        xyxy=boxes,
        mask=masks,
        confidence=scores,
        class_id=classes.astype(np.int64),
        data={"class_name": np.array(names, dtype=np.str_)},
    )


def to_key_points(
    points: NDArray[np.float32],
    point_scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    names: Sequence[str],
) -> Any:
    """`supervision.KeyPoints`; `data["class_name"]` has the names.

    Args:
        points: [n, k, 2], x and y.
        point_scores: [n, k].
        classes: [n].
        names: n class names.

    Raises:
        ResultError: The package supervision is not installed.
    """
    # By place: what is second and third changed its name between its releases.
    return _supervision().KeyPoints(
        points,
        classes.astype(np.int64),
        point_scores,
        data={"class_name": np.array(names, dtype=np.str_)},
    )


def _supervision() -> Any:
    try:
        import supervision  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ResultError(
            f"to_supervision needs the package supervision: {error}", hint="pip install supervision"
        ) from error
    return supervision
