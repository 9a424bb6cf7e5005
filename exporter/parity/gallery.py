"""Overlays side by side: ground truth and every precision on a handful of images, the worst among them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.parity.report import Against, Comparison
from edgewise.exporter.parity.stages import Stage
from edgewise.exporter.parity.task import TaskWords
from edgewise.exporter.parity.tensors import structure_problems, value_problems
from edgewise.exporter.parity.tracks import Image
from edgewise.models.data.dataset import Dataset
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.decoding.decode import decode_result
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import EdgewiseError

TILE_WIDTH = 360
JPEG_QUALITY = 84


@dataclass(frozen=True)
class Tile:
    """One picture; `jpeg` is a data URI, empty where the stage gave nothing to draw."""

    title: str
    caption: str
    jpeg: str


@dataclass(frozen=True)
class Overlay:
    """One image of the dataset, drawn for the ground truth and each stage."""

    image_id: int
    file: str
    note: str
    tiles: tuple[Tile, ...]


def choose_images(
    comparisons: Sequence[Comparison],
    titles: Mapping[str, str],
    image_ids: Sequence[int],
    objects: Mapping[int, int],
    wanted: int,
) -> dict[int, str]:
    """Index -> why, for at most `wanted` images: the worst of each comparison, an empty one, a spread.

    Args:
        titles: Stage name -> title.
        objects: Image id -> number of annotated objects.
    """
    count = len(image_ids)
    place = {image_id: index for index, image_id in enumerate(image_ids)}
    chosen: dict[int, str] = {}
    for comparison in reversed(comparisons):
        worst = comparison.decoded.worst_image if comparison.decoded else None
        if worst is not None and Against.REFERENCE in comparison.against and len(chosen) < wanted - 2:
            chosen.setdefault(place[worst], f"least agreement of {titles[comparison.candidate]}")
    empty = next((index for index, image_id in enumerate(image_ids) if not objects.get(image_id)), None)
    if empty is not None and len(chosen) < wanted:
        chosen.setdefault(empty, "nothing to find")
    for index in np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist():
        if len(chosen) < wanted:
            chosen.setdefault(index, "")
    return chosen


def draw_overlay(
    manifest: Manifest,
    words: TaskWords,
    dataset: Dataset,
    index: int,
    note: str,
    image: Image,
    stages: Sequence[Stage],
) -> Overlay:
    """Run `stages` on one image of the dataset and draw what they find beside the ground truth."""
    frame, truth = dataset.frame(index), dataset.truth(index)
    tiles = [_tile("ground truth", _counted(len(truth), words), truth.draw(frame))]
    for stage in stages:
        found = _result(manifest, stage, image)
        if found is None:
            tiles.append(Tile(stage.info.title, "gave no result", ""))
            continue
        shown = found.above(found.display_threshold)
        tiles.append(_tile(stage.info.title, _best(shown, words), shown.draw(frame)))
    return Overlay(image.id, dataset.images[index].file_name, note, tuple(tiles))


def _result(manifest: Manifest, stage: Stage, image: Image) -> Result | None:
    """What a stage finds on an image; None where it gives nothing that can be decoded."""
    try:
        looks = [stage.run(inputs) for inputs in image.inputs]
        if any(structure_problems(stage.tensors, look) + value_problems(look) for look in looks):
            return None
        return decode_result(manifest, image.looks, looks)
    except EdgewiseError:
        return None


def _counted(count: int, words: TaskWords) -> str:
    return f"{count} {words.thing if count == 1 else words.things}"


def _best(shown: Result, words: TaskWords) -> str:
    if len(shown) == 0:
        return "nothing shown"
    return f"{_counted(len(shown), words)} shown, best {float(shown.scores.max()):.3f}"


def _tile(title: str, caption: str, picture: NDArray[np.uint8]) -> Tile:
    height, width = picture.shape[:2]
    if width > TILE_WIDTH:
        size = (TILE_WIDTH, max(1, round(height * TILE_WIDTH / width)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Tile(title, caption, "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode())
