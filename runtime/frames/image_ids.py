"""The numbers of images: what an annotation file says, or the names of the files themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgewise.runtime.frames.coco import ImageEntry, doubled, read_coco
from edgewise.runtime.system.errors import SourceError

LARGEST = 1 << 53
"""Above that not every reader of JSON takes the same integer."""
_HINT = "give a COCO annotation file, which lists `images`, or the images.json of a run"


class _Listed(msgspec.Struct):
    images: list[ImageEntry]


@dataclass(frozen=True, eq=False)
class ImageIds:
    """Image ids by file name without folders, each once, as a file lists them."""

    file: Path
    by_name: Mapping[str, int]

    @classmethod
    def open(cls, file: Path) -> ImageIds:
        """Read them from a COCO annotation file, or from the `images.json` of a run.

        Raises:
            SourceError: Unreadable, not of one of the two forms, or two images share a number or a name.
        """

        def refuse(reason: str) -> SourceError:
            return SourceError(f"the file lists no images: {reason}", where=str(file), hint=_HINT)

        try:
            data = file.read_bytes()
        except OSError as error:
            raise SourceError(
                f"the annotation file cannot be read: {error.strerror}", where=str(file), hint=_HINT
            ) from None
        if data.lstrip()[:1] == b"[":
            return cls.of(read_coco(data, list[ImageEntry], refuse), file)
        return cls.of(read_coco(data, _Listed, refuse).images, file)

    @classmethod
    def of(cls, images: Sequence[ImageEntry], file: Path) -> ImageIds:
        """Those of a file's images; SourceError where two of them share a number or a name."""
        names = [Path(image.file_name).name for image in images]
        for what, twice in (("number", doubled(image.id for image in images)), ("file name", doubled(names))):
            if twice:
                raise SourceError(
                    f"two images have the same {what}: {twice[0]}",
                    where=str(file),
                    hint="number and name the images so that each is told from the others",
                )
        return cls(file, {name: image.id for name, image in zip(names, images, strict=True)})

    def numbers(self, names: Sequence[str]) -> list[int]:
        """The number of each name; SourceError where the file does not know one."""
        unknown = [name for name in names if name not in self.by_name]
        if unknown:
            raise SourceError(
                f"the file does not know {len(unknown)} of {len(names)} images, {unknown[0]!r} first",
                where=str(self.file),
                hint="list every image of the source, annotated or not, among the file's `images`",
            )
        return [self.by_name[name] for name in names]


def numbers_by_name(names: Sequence[str]) -> list[int]:
    """The integer that each file is named by, or its position.

    Files are numbered by their names only where all of them are named by integers that differ: `1.png` and
    `001.png`, or `1.png` and `1.jpg`, would share one.
    """
    stems = [Path(name).stem for name in names]
    if all(stem.isdecimal() for stem in stems):
        named = [int(stem) for stem in stems]
        if len(set(named)) == len(named) and max(named, default=0) < LARGEST:
            return named
    return list(range(len(names)))
