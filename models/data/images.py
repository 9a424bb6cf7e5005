"""The images of a dataset: decoded when they are asked for, and kept where a training wants them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgewise.models.data.coco_file import CocoImage, read_annotated
from edgewise.models.data.example import Image

_CACHE_LIMIT = 3 << 30


@dataclass
class ImageFiles:
    """Images in a folder.

    Attributes:
        folder: Where they lie.
        images: Their names and sizes, in the annotation file's order.
        keep: Keep decoded images in memory, up to 3 GiB.
    """

    folder: Path
    images: tuple[CocoImage, ...]
    keep: bool = False
    _frames: dict[int, Image] = field(default_factory=dict)
    _kept_bytes: int = 0

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.folder / self.images[index].file_name

    def frame(self, index: int) -> Image:
        """Image `index`, uint8 [h, w, 3] BGR.

        Raises:
            DatasetError: It cannot be read, or its size is not the annotated one.
        """
        if index in self._frames:
            return self._frames[index]
        frame = read_annotated(self.path(index), self.images[index])
        if self.keep and self._kept_bytes + frame.nbytes <= _CACHE_LIMIT:
            self._kept_bytes += frame.nbytes
            self._frames[index] = frame
        return frame
