"""What training, evaluation and parity ask of a dataset, whatever its task."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgewise.models.data.augment import Augmentation
from edgewise.models.data.coco_file import CocoImage
from edgewise.models.data.example import Image
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.results.result import Result


class Dataset(Protocol):
    """Annotated images; decoded lazily, checked when opened."""

    @property
    def json(self) -> Path:
        """The annotation file."""
        ...

    @property
    def folder(self) -> Path:
        """Where the images lie."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Classes and keypoints, in the order of a model's indices."""
        ...

    @property
    def images(self) -> tuple[CocoImage, ...]:
        """Ids, names and sizes of the images, in the file's order."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """What somebody who trains on it should know, a line each."""
        ...

    @property
    def object_count(self) -> int:
        """How many objects, segments or people are annotated, crowds left out."""
        ...

    @property
    def sample_count(self) -> int:
        """How many training samples there are: images, or people."""
        ...

    def __len__(self) -> int:
        """How many images."""
        ...

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        ...

    def frame(self, index: int) -> Image:
        """Image `index`, uint8 [h, w, 3] BGR; DatasetError where it cannot be decoded or has another size."""
        ...

    def boxes(self, index: int) -> FrameBoxes | None:
        """Where a model of crops looks in image `index`: the annotated boxes; None for whole frames."""
        ...

    def truth(self, index: int) -> Result:
        """The ground truth of image `index` as a result of score 1."""
        ...

    def training_pair(
        self, rng: np.random.Generator, sample: int, spec: Preprocess, augmentation: Augmentation
    ) -> tuple[Image, Any]:
        """Sample `sample`, varied: uint8 [h, w, 3] at network size, and the targets of the task."""
        ...
