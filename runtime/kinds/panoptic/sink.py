"""COCO panoptic results: one JSON file, and one PNG of segment ids a frame.

The pair is what panopticapi and other evaluators read as a prediction. It also lists images and categories,
so that it can be opened as a dataset.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel, Manifest
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.results.kind import SinkForm
from edgewise.runtime.system.errors import ResultError

PANOPTIC = "panoptic.json"
PANOPTIC_FOLDER = "panoptic"


class PanopticResults:
    """`panoptic.json` and `panoptic/*.png`, streamed: memory does not grow with the number of frames.

    Args:
        path: The JSON file: `annotations` (image_id, file_name, segments_info) and `images` of every frame,
            also of those without a segment, and `categories`.
        folder: Made for the PNG files, which are named after the source images: id = R + 256 * G + 65536 * B.
        labels: The manifest's classes.
    """

    def __init__(self, path: Path, folder: Path, labels: tuple[ClassLabel, ...]) -> None:
        folder.mkdir()
        self._folder = folder
        self._labels = labels
        self._used: set[str] = set()
        self._stream = path.open("wb")
        self._stream.write(b'{"annotations": [')
        # The images come behind all annotations, so they wait in a file of their own.
        self._waiting = path.with_suffix(".images")
        self._images = self._waiting.open("w+b")
        self._count = 0

    def write(self, frame: Frame, result: Panoptic) -> None:
        stem = Path(frame.name).stem
        name = f"{stem if stem not in self._used else frame.name}.png"
        self._used.add(name.removesuffix(".png"))
        annotation, picture = result.to_coco_panoptic(frame.image_id, name)
        good, data = cv2.imencode(".png", picture)
        if not good:
            raise ResultError("a segment map cannot be encoded as PNG", where=frame.name)
        (self._folder / name).write_bytes(data.tobytes())
        height, width = result.frame_size
        image = {"id": frame.image_id, "file_name": frame.name, "height": height, "width": width}
        self._append(annotation, image)

    def close(self) -> None:
        """Finish the JSON file, so that it is valid with what was written so far."""
        if self._stream.closed:
            return
        self._stream.write(b'\n],\n"images": [')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._stream)
        self._images.close()
        self._waiting.unlink()
        categories = b",\n".join(msgspec.json.encode(_category(label)) for label in self._labels)
        self._stream.write(b'\n],\n"categories": [\n' + categories + b"\n]}\n")
        self._stream.close()

    def _append(self, annotation: dict[str, Any], image: dict[str, Any]) -> None:
        between = b",\n" if self._count else b"\n"
        self._stream.write(between + msgspec.json.encode(annotation))
        self._images.write(between + msgspec.json.encode(image))
        self._count += 1


def _category(label: ClassLabel) -> dict[str, Any]:
    thing = label.kind is ClassKind.THING
    return {
        "id": label.id,
        "name": label.name,
        "supercategory": "thing" if thing else "stuff",
        "isthing": int(thing),
    }


def _open(paths: Sequence[Path], manifest: Manifest) -> PanopticResults:
    return PanopticResults(paths[0], paths[1], manifest.classes)


PANOPTIC_FILES = SinkForm((PANOPTIC, PANOPTIC_FOLDER), _open)
