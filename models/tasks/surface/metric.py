"""How right surfaces are at the annotated points: GPS with distances on the charts.

A person is found by the result of the best score that overlaps the box by half, each result once. At every
annotated point the result's own pixel is read. A point counts exp(-d^2 / (2 k^2)) where the part is right, d
being the distance on the part's chart, and 0 where it is not, or where nobody was found
(`runtime/kinds/surface/agreement.py`: DensePose's own distances need data that cannot be shipped). The value
is the mean over all points.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.measured_images import MeasuredImages
from edgewise.models.tasks.surface.dataset import CocoSurfaces
from edgewise.models.tasks.task import Measured
from edgewise.runtime.kinds.surface.agreement import point_similarity
from edgewise.runtime.kinds.surface.result import Surface
from edgewise.runtime.results.overlap import box_iou
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import DatasetError

_FOUND = 0.5
"""IoU of the boxes from which a person is found."""


@dataclass(frozen=True)
class SurfaceAgreement:
    """The metric; see the module."""

    name: str = "chart GPS"

    def begin(self, dataset: Dataset) -> Agreement:
        """See `Metric.begin`."""
        if not isinstance(dataset, CocoSurfaces):
            raise DatasetError(
                f"{self.name} needs points on surfaces",
                where=str(dataset.json),
                hint="give a folder with surface.json and images/",
            )
        return Agreement(self.name, dataset, MeasuredImages(dataset))


@dataclass
class Agreement:
    """Sums while results come in."""

    name: str
    dataset: CocoSurfaces
    images: MeasuredImages
    _points: int = 0
    _similarity: float = 0.0
    _right: int = 0
    _error: float = 0.0
    _people: list[bool] = field(default_factory=list[bool])

    def add(self, index: int, result: Result) -> None:
        """See `Measuring.add`."""
        _, found = self.images.add(index, result, Surface)
        people = self.dataset.people(index)
        partner = _partners(people.boxes, found)
        crops, places = list(found.crops), found.crops.places.tolist()
        for points, one in zip(people.points, partner, strict=True):
            self._people.append(one is not None)
            self._points += len(points)
            if one is None:
                continue
            labels, uv = _read(points, *crops[one], places[one])
            wanted = points[:, 2].astype(np.uint8), points[:, 3:].T.astype(np.float32)
            right = labels == wanted[0]
            self._similarity += float(point_similarity(*wanted, labels, uv).sum())
            self._right += int(right.sum())
            self._error += float(np.abs(uv - wanted[1])[:, right].mean(axis=0).sum())

    def value(self) -> Measured:
        """See `Measuring.value`.

        The parts are the share of points of the right part, the mean |error| of U and V at those, and the
        share of people found.
        """
        ids = self.images.ids
        points, right = max(self._points, 1), max(self._right, 1)
        parts = {
            "part accuracy": self._right / points,
            "UV error": self._error / right,
            "people found": float(np.mean(self._people)) if self._people else 1.0,
        }
        value = self._similarity / points if self._points else 1.0
        return Measured(self.name, value, parts, len(ids))


SURFACE_AGREEMENT = SurfaceAgreement()


def _partners(boxes: NDArray[np.float64], found: Surface) -> list[int | None]:
    """The result of each true box: by falling score, each takes the free box that it overlaps most."""
    partner: list[int | None] = [None] * len(boxes)
    overlap = box_iou(boxes, found.boxes.astype(np.float64))
    for one in np.argsort(-found.scores, kind="stable").tolist():
        free = [place for place, other in enumerate(partner) if other is None]
        best = max(free, key=lambda place: overlap[place, one], default=None)
        if best is not None and overlap[best, one] >= _FOUND:
            partner[best] = one
    return partner


def _read(
    points: NDArray[np.float64], labels: NDArray[np.uint8], uv: NDArray[np.float32], place: list[int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels [p] and uv [2, p] of a crop at x, y, w, h under points; 0 outside it."""
    x, y, w, h = place
    columns, rows = (np.floor(points[:, axis]).astype(int) - low for axis, low in ((0, x), (1, y)))
    inside = (columns >= 0) & (columns < w) & (rows >= 0) & (rows < h)
    at = np.clip(rows, 0, h - 1), np.clip(columns, 0, w - 1)
    return np.where(inside, labels[at], 0).astype(np.uint8), np.where(inside, uv[:, at[0], at[1]], 0)
