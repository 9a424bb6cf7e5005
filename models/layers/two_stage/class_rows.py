"""Where a predictor keeps its classes among its rows: of logits, of boxes, of masks."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor


class ClassRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Class c of the things has row `first + c`, or `places[c]`; others are the background's or nobody's.

    | | count | first | places |
    |---|---|---|---|
    | UPSNet | classes + 1 | 1 | |
    | torchvision, on classes of one's own | classes + 1 | 1 | |
    | torchvision, published for COCO | 91 | | category ids |
    | detectron2, logits | classes + 1 | 0 | |
    | detectron2, boxes and masks | classes | 0 | |

    Attributes:
        classes: Number of classes, without the background.
        count: Number of rows.
        first: Row of class 0.
        places: The row of each class, where they do not follow one another.
    """

    classes: int
    count: int
    first: int = 0
    places: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.places is not None:
            if len(self.places) != self.classes or not all(0 <= row < self.count for row in self.places):
                raise ValueError(f"{self.classes} classes need as many places among {self.count} rows")
        elif not 0 <= self.first <= self.count - self.classes:
            raise ValueError(f"{self.classes} classes from row {self.first} on do not fit {self.count} rows")

    def of(self, classes: Tensor) -> Tensor:
        """Classes int64 [...] -> their rows int64 [...]."""
        if self.places is None:
            return classes + self.first
        places = torch.tensor(self.places, device=classes.device)
        return places.index_select(0, classes.flatten()).reshape(classes.shape)

    def select(self, values: Tensor) -> Tensor:
        """Predictions [R, count, ...] -> those of the classes, [R, classes, ...]."""
        if self.places is None:
            return values[:, self.first : self.first + self.classes]
        return values.index_select(1, torch.tensor(self.places, device=values.device))
