"""Where a predictor keeps its classes among its rows: of logits, of boxes, of masks."""

from __future__ import annotations

import msgspec
from torch import Tensor


class ClassRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Class c of the things has row `first + c`; the rows around them are the background's.

    | | count | first |
    |---|---|---|
    | UPSNet, torchvision | classes + 1 | 1 |
    | detectron2, logits | classes + 1 | 0 |
    | detectron2, boxes and masks | classes | 0 |

    Attributes:
        classes: Number of classes, without the background.
        count: Number of rows.
        first: Row of class 0.
    """

    classes: int
    count: int
    first: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.count - self.classes:
            raise ValueError(f"{self.classes} classes from row {self.first} on do not fit {self.count} rows")

    def of(self, classes: Tensor) -> Tensor:
        """Classes int64 [...] -> their rows int64 [...]."""
        return classes + self.first

    def select(self, values: Tensor) -> Tensor:
        """Predictions [R, count, ...] -> those of the classes, [R, classes, ...]."""
        return values[:, self.first : self.first + self.classes]
