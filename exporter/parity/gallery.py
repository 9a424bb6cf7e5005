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
from edgewise.exporter.parity.tensors import structure_problems, value_problems
from edgewise.models.datasets import CocoInstances
from edgewise.models.example import Example
from edgewise.runtime.errors import EdgewiseError
from edgewise.runtime.manifest import ClassLabel, Manifest
from edgewise.runtime.masks import crop_dense
from edgewise.runtime.postprocess import postprocess
from edgewise.runtime.results import Instances
from edgewise.runtime.views import views_of

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
    manifest: Manifest, dataset: CocoInstances, index: int, note: str, stages: Sequence[Stage]
) -> Overlay:
    """Run `stages` on one image of the dataset and draw what they find beside the ground truth."""
    example = dataset.example(index)
    truth = ground_truth(example, dataset.labels)
    tiles = [_tile("ground truth", _counted(len(truth), "object"), truth.draw(example.frame))]
    views = views_of(manifest, example.frame)
    tensor = views.looks[0].tensor
    graph = next(iter(manifest.graphs.values()))
    for stage in stages:
        try:
            tensors = stage.run({graph.inputs[0].name: tensor})
            problems = structure_problems(stage.tensors, tensors) + value_problems(tensors)
            found = None if problems else postprocess(manifest, views, [tensors])
        except EdgewiseError:
            found = None
        if found is None:
            tiles.append(Tile(stage.info.title, "gave no result", ""))
            continue
        shown = found[found.scores >= found.display_threshold]
        tiles.append(_tile(stage.info.title, _count(shown), shown.draw(example.frame)))
    image = dataset.images[index]
    return Overlay(image.id, image.file_name, note, tuple(tiles))


def ground_truth(example: Example, labels: tuple[ClassLabel, ...]) -> Instances:
    """The annotated objects of one image as instances of score 1."""
    return Instances(
        boxes=example.boxes.astype(np.float32),
        scores=np.ones(len(example.boxes), np.float32),
        classes=example.classes.astype(np.int32),
        masks=crop_dense(example.masks),
        labels=labels,
        frame_size=(example.frame.shape[0], example.frame.shape[1]),
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _count(shown: Instances) -> str:
    if len(shown) == 0:
        return "nothing shown"
    return f"{len(shown)} shown, best {float(shown.scores.max()):.3f}"


def _tile(title: str, caption: str, picture: NDArray[np.uint8]) -> Tile:
    height, width = picture.shape[:2]
    if width > TILE_WIDTH:
        size = (TILE_WIDTH, max(1, round(height * TILE_WIDTH / width)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Tile(title, caption, "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode())
