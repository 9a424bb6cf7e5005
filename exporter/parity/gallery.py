"""Overlays side by side: ground truth and every precision on a handful of images, the worst among them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.parity.report import Against, Comparison
from edgewise.exporter.parity.tracks import PreparedImage, StageTrack
from edgewise.models.data.dataset import Dataset
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.results.kind import Nouns
from edgewise.runtime.results.result import Result, Scored

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
    dataset: Dataset,
    index: int,
    note: str,
    images: Callable[[], Iterable[PreparedImage]],
    tracks: Sequence[StageTrack],
) -> Overlay:
    """Draw what stages find on an image of the dataset beside the ground truth.

    Args:
        images: Gives what a stage walks to come to the image, which is the last.
    """
    frame, truth, kind = dataset.frame(index), dataset.truth(index), kind_of(manifest)
    shown_from = manifest.postprocess.shown_from
    tiles = [_tile("ground truth", _counted(kind.counts(truth, 0.0).total(), kind.nouns), truth.draw(frame))]
    for track in tracks:
        found = track.result_of_last(images())
        if found is None:
            tiles.append(Tile(track.info.title, "gave no result", ""))
            continue
        caption = _caption(found, kind.counts(found, shown_from).total(), kind.nouns)
        tiles.append(_tile(track.info.title, caption, found.draw(frame)))
    described = dataset.images[index]
    return Overlay(described.id, described.file_name, note, tuple(tiles))


def _counted(count: int, nouns: Nouns) -> str:
    return f"{count} {nouns.thing if count == 1 else nouns.things}"


def _caption(found: Result, shown: int, nouns: Nouns) -> str:
    if not shown:
        return "nothing shown"
    best = f", best {float(found.scores.max()):.3f}" if isinstance(found, Scored) else ""
    return f"{_counted(shown, nouns)} shown{best}"


def _tile(title: str, caption: str, picture: NDArray[np.uint8]) -> Tile:
    height, width = picture.shape[:2]
    if width > TILE_WIDTH:
        size = (TILE_WIDTH, max(1, round(height * TILE_WIDTH / width)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Tile(title, caption, "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode())
