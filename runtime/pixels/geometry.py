"""Where a network-input pixel lies in the source frame, and back.

Coordinates are continuous with the origin at the outer corner of the first pixel: pixel column j covers
[j, j + 1) and its centre is j + 0.5. Points are (x, y), sizes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.system.errors import ResultError

Size = tuple[int, int]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """One axis of an unrotated map: network = scale * source + offset, in continuous pixels."""

    scale: float
    offset: float
    source_length: int
    network_length: int


@dataclass(frozen=True, eq=False)
class Geometry:
    """The affine map that a preprocessing applied to one frame.

    Args:
        source_size: (height, width) of the frame.
        network_size: (height, width) of the graph's input.
        matrix: float64 [2, 3], source to network in continuous pixel coordinates.

    Raises:
        ResultError: The matrix is mis-shaped or has no inverse.
    """

    source_size: Size
    network_size: Size
    matrix: Matrix

    def __post_init__(self) -> None:
        if self.matrix.shape != (2, 3) or self.matrix.dtype != np.float64:
            raise ResultError(
                f"a geometry needs a float64 [2, 3] matrix, not {self.matrix.dtype} {self.matrix.shape}"
            )
        if not np.isfinite(self.matrix).all() or np.linalg.det(self.matrix[:, :2]) == 0:
            raise ResultError("a geometry's matrix has no inverse", where=str(self.matrix.tolist()))

    def to_network(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map points [..., 2] of the source frame to the network input."""
        return np.asarray(points, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_source(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map points [..., 2] of the network input to the source frame."""
        inverse = np.linalg.inv(self.matrix[:, :2])
        return (np.asarray(points, np.float64) - self.matrix[:, 2]) @ inverse.T

    def axes(self) -> tuple[Axis, Axis]:
        """The (horizontal, vertical) maps.

        Raises:
            ResultError: The map turns or shears, so that the axes do not separate.
        """
        (scale_x, shear_x, offset_x), (shear_y, scale_y, offset_y) = self.matrix.tolist()
        if shear_x or shear_y:
            raise ResultError("masks cannot be resampled through a turned or sheared geometry")
        if scale_x <= 0 or scale_y <= 0:
            raise ResultError("masks cannot be resampled through a mirrored geometry")
        (source_h, source_w), (network_h, network_w) = self.source_size, self.network_size
        return (
            Axis(scale_x, offset_x, source_w, network_w),
            Axis(scale_y, offset_y, source_h, network_h),
        )


def scaling(
    source_size: Size, network_size: Size, scale: tuple[float, float], offset: tuple[float, float]
) -> Geometry:
    """Geometry of network = scale * source + offset; `scale` and `offset` are (x, y)."""
    matrix = np.array([[scale[0], 0.0, offset[0]], [0.0, scale[1], offset[1]]], np.float64)
    return Geometry(source_size, network_size, matrix)
