"""Annotated images in a folder: the part of a dataset that is the same for every task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgewise.models.data.coco_file import CocoImage
from edgewise.models.data.example import Image
from edgewise.models.data.images import ImageFiles
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.runtime.frames.looks import FrameBoxes


@dataclass
class AnnotatedImages:
    """What `Dataset` asks of whole frames with one training sample an image; a task adds its annotations."""

    json: Path
    files: ImageFiles
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.images)

    @property
    def folder(self) -> Path:
        """Where the images lie."""
        return self.files.folder

    @property
    def images(self) -> tuple[CocoImage, ...]:
        """Ids, names and sizes of the images, in the file's order."""
        return self.files.images

    @property
    def remarks(self) -> tuple[str, ...]:
        """Nothing in particular."""
        return ()

    @property
    def sample_count(self) -> int:
        """One training sample an image."""
        return len(self.images)

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.files.path(index)

    def frame(self, index: int) -> Image:
        """Image `index`, uint8 [h, w, 3] BGR; raises DatasetError as `ImageFiles.frame`."""
        return self.files.frame(index)

    def boxes(self, index: int) -> FrameBoxes | None:
        """Nothing: whole frames are looked at."""
        return None
