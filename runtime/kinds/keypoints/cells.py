"""Between the cells of heatmaps, the network's input and the frame.

All coordinates are continuous: cell (i, j) (row, column) covers [j, j + 1) x [i, i + 1), as a pixel does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.postprocessing import CellPlace
from edgewise.runtime.pixels.geometry import Geometry, Size

Points = NDArray[np.float64]


def cells_to_network(place: CellPlace, map_size: Size, network_size: Size) -> tuple[Points, Points]:
    """(factor, offset) of network = factor * cell + offset, each float64 [2], x then y.

    Args:
        place: Which place of the input a cell stands for.
        map_size: (height, width) of the heatmaps.
        network_size: (height, width) of the network's input.
    """
    cells, pixels = (np.array(size[::-1], np.float64) for size in (map_size, network_size))
    if place is CellPlace.DISTANCE and cells[0] > 1:
        factor = np.full(2, (pixels[0] - 1) / (cells[0] - 1))
        return factor, pixels / 2 - factor * cells / 2
    factor = pixels / cells
    return factor, 0.5 - 0.5 * factor if place is CellPlace.NUMBER else np.zeros(2)


def cells_to_source(
    place: CellPlace, cells: Points, map_size: Size, geometries: Sequence[Geometry]
) -> Points:
    """Map points of heatmaps to the frame, each person's through the inverse of its own crop.

    Args:
        place: Which place of the input a cell stands for.
        cells: float64 [n, k, 2], continuous heatmap cells.
        map_size: (h, w) of the heatmaps.
        geometries: n, all of one network.

    Returns:
        float64 [n, k, 2], continuous source pixels.
    """
    factor, offset = cells_to_network(place, map_size, geometries[0].network_size)
    matrices = np.stack([geometry.matrix for geometry in geometries])
    inverses = np.linalg.inv(matrices[:, :, :2])
    network = cells * factor + offset - matrices[:, None, :, 2]
    return network @ inverses.swapaxes(1, 2)
