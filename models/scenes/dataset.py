"""Scenes written as COCO datasets: instances, panoptic segments and person keypoints over the same images.

Images are PNG, not JPEG: every decoder gives the same pixels, so scores can be compared between machines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.models.scenes.figure_surface import PARTS
from edgewise.models.scenes.scene import Scene, render_scene
from edgewise.models.scenes.vocabulary import KEYPOINT_NAMES, KEYPOINTS, LABELS, STUFF_LABELS
from edgewise.runtime.contract.manifest import ClassKind, ClassLabel
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.pixels.rle import encode_rle
from edgewise.runtime.results.result import Record
from edgewise.runtime.system.atomic import staged_folder, write_text
from edgewise.runtime.system.errors import DatasetError

INSTANCES_FILE = "instances.json"
PANOPTIC_FILE = "panoptic.json"
KEYPOINTS_FILE = "keypoints.json"
SURFACE_FILE = "surface.json"
SURFACE_POINTS = 150
"""Annotated points of a figure, where it shows as many pixels."""
_CELLS = 256
"""Along an axis of a box, of DensePose's coarse masks and points."""
IMAGE_FOLDER = "images"
PANOPTIC_FOLDER = "panoptic"
_PNG_LEVEL = (cv2.IMWRITE_PNG_COMPRESSION, 3)
_SURFACE = 3
"""Of the random stream that chooses points."""
_SMALLEST_SIDE, _LARGEST_SIDE = 64, 4096


def write_dataset(
    folder: Path,
    count: int,
    seed: int,
    size: int | tuple[int, int] = 256,
    *,
    replace: bool = False,
    progress: bool = False,
) -> Path:
    """Render scenes 0..count-1 of a series and write them as COCO datasets.

    The folder holds `images/*.png`, `instances.json` and `keypoints.json` (compressed RLE masks),
    `surface.json` (points on the figures' surfaces in DensePose's form),
    `panoptic.json` and `panoptic/*.png` (segment id = R + 256 G + 65536 B). An image's id is the number that
    its file is named by. The folder appears whole or not at all, and the same arguments write the same bytes
    again. Series of different seeds share no scene: use one seed
    for training and another for evaluation.

    Args:
        folder: Where the dataset goes; must not exist or be empty unless `replace` is set.
        count: Number of scenes, >= 1.
        seed: Series, >= 0.
        size: Side of square scenes, or (height, width); sides from 64 to 4096.
        replace: Whether an existing folder may be replaced.
        progress: Whether to show a progress bar on the terminal.

    Raises:
        DatasetError: An argument out of its range.
        EdgewiseError: The folder exists and is not empty.
    """
    height, width = series_size(count, seed, size)
    info = {
        "description": "edgewise synthetic scenes",
        "version": "1",
        "seed": seed,
        "count": count,
        "size": [height, width],
    }
    images: list[Record] = []
    instances: list[Record] = []
    keypoints: list[Record] = []
    panoptic: list[Record] = []
    surfaces: list[Record] = []
    with staged_folder(folder, replace=replace) as staged:
        (staged / IMAGE_FOLDER).mkdir()
        (staged / PANOPTIC_FOLDER).mkdir()
        for index in counted(range(count), shown=progress):
            scene = render_scene(seed, index, (height, width))
            name = f"{index:06d}.png"
            images.append({"id": index, "file_name": name, "height": height, "width": width})
            write_png(staged / IMAGE_FOLDER / name, scene.image)
            for record in instance_records(scene, index, len(instances) + 1):
                instances.append({key: record[key] for key in record if "keypoints" not in key})
                if "keypoints" in record:
                    keypoints.append(record)
            surfaces += surface_records(scene, index, seed, len(surfaces) + 1)
            segments, record = panoptic_record(scene, index, name)
            panoptic.append(record)
            write_png(staged / PANOPTIC_FOLDER / name, segments)
        things = [_category(label) for label in LABELS]
        write_json(
            staged / INSTANCES_FILE,
            {"info": info, "images": images, "annotations": instances, "categories": things},
        )
        person = {
            **things[0],
            "keypoints": list(KEYPOINT_NAMES),
            "skeleton": [[start + 1, end + 1] for start, end in KEYPOINTS.limbs],
        }
        write_json(
            staged / KEYPOINTS_FILE,
            {"info": info, "images": images, "annotations": keypoints, "categories": [person]},
        )
        write_json(
            staged / SURFACE_FILE,
            {"info": info, "images": images, "annotations": surfaces, "categories": things[:1]},
        )
        both = [_category(label) for label in (*LABELS, *STUFF_LABELS)]
        write_json(
            staged / PANOPTIC_FILE,
            {"info": info, "images": images, "annotations": panoptic, "categories": both},
        )
    return folder


def series_size(count: int, seed: int, size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the scenes that are asked for.

    Raises:
        DatasetError: An argument out of its range.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if count < 1:
        raise DatasetError(f"cannot write {count} scenes", where="--count", hint="ask for at least 1")
    if seed < 0:
        raise DatasetError(f"the seed {seed} is negative", where="--seed", hint="use 0 or a positive number")
    if not all(_SMALLEST_SIDE <= side <= _LARGEST_SIDE for side in (height, width)):
        raise DatasetError(
            f"cannot render scenes of {height}x{width} pixels",
            where="--size",
            hint=f"use sides from {_SMALLEST_SIDE} to {_LARGEST_SIDE}",
        )
    return height, width


def instance_records(scene: Scene, image_id: int, first_id: int) -> Iterator[Record]:
    """COCO annotations of a scene's things; figures also carry `keypoints` and `num_keypoints`."""
    height, width = scene.owners.shape
    masks = crop_dense(scene.owners[None] == np.arange(len(scene.things))[:, None, None])
    described = zip(
        scene.things, encode_rle(masks), masks.places.tolist(), masks.areas().tolist(), strict=True
    )
    for number, (thing, counts, place, area) in enumerate(described):
        record: Record = {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": LABELS[thing.class_index].id,
            "bbox": place,
            "area": area,
            "iscrowd": 0,
            "segmentation": {"size": [height, width], "counts": counts},
        }
        if thing.keypoints is not None:
            record["keypoints"] = thing.keypoints.ravel().tolist()
            record["num_keypoints"] = int((thing.keypoints[:, 2] > 0).sum())
        yield record


def surface_records(scene: Scene, image_id: int, seed: int, first_id: int) -> Iterator[Record]:
    """COCO DensePose annotations of a scene's figures: random points of what is seen, a mask of each part."""
    masks = crop_dense(scene.owners[None] == np.arange(len(scene.things))[:, None, None])
    rng = np.random.default_rng((seed, image_id, _SURFACE))
    number = first_id
    for thing, place, area in zip(scene.things, masks.places.tolist(), masks.areas().tolist(), strict=True):
        if thing.surface is None:
            continue
        x, y, width, height = place
        shown = thing.surface
        points = shown[rng.permutation(len(shown))[:SURFACE_POINTS]]
        cells = np.zeros((height, width), np.uint8)
        cells[shown[:, 1].astype(int) - y, shown[:, 0].astype(int) - x] = shown[:, 2]
        cells = np.asarray(cv2.resize(cells, (_CELLS, _CELLS), interpolation=cv2.INTER_NEAREST))
        seen = np.arange(1, len(PARTS) + 1)[:, None, None] == cells
        yield {
            "id": number,
            "image_id": image_id,
            "category_id": LABELS[thing.class_index].id,
            "bbox": place,
            "area": area,
            "iscrowd": 0,
            "dp_masks": [
                {"size": [_CELLS, _CELLS], "counts": counts} if mask.any() else []
                for mask, counts in zip(seen, encode_rle(crop_dense(seen)), strict=True)
            ],
            "dp_x": ((points[:, 0] + 0.5 - x) * _CELLS / width).round(3).tolist(),
            "dp_y": ((points[:, 1] + 0.5 - y) * _CELLS / height).round(3).tolist(),
            "dp_I": points[:, 2].astype(int).tolist(),
            "dp_U": points[:, 3].round(4).tolist(),
            "dp_V": points[:, 4].round(4).tolist(),
        }
        number += 1


def panoptic_record(scene: Scene, image_id: int, name: str) -> tuple[NDArray[np.uint8], Record]:
    """The segment image (BGR of the id's bytes, low byte in red) and its COCO panoptic annotation.

    Things are segments 1..n from the farthest to the nearest; stuff follows in the order of STUFF_LABELS.
    """
    first_stuff = len(scene.things) + 1
    segments = np.where(scene.owners >= 0, scene.owners + 1, first_stuff + scene.stuff).astype(np.uint8)
    described: list[Record] = []
    for segment in np.flatnonzero(np.bincount(segments.ravel())):
        thing = int(segment) < first_stuff
        label = (
            LABELS[scene.things[int(segment) - 1].class_index]
            if thing
            else STUFF_LABELS[int(segment) - first_stuff]
        )
        mask = segments == segment
        described.append(
            {
                "id": int(segment),
                "category_id": label.id,
                "area": int(mask.sum()),
                "bbox": _bbox(mask),
                "iscrowd": 0,
            }
        )
    image = np.zeros((*segments.shape, 3), np.uint8)
    image[..., 2] = segments
    return image, {"image_id": image_id, "file_name": name, "segments_info": described}


def _bbox(mask: NDArray[Any]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def _category(label: ClassLabel) -> Record:
    thing = label.kind is ClassKind.THING
    return {
        "id": label.id,
        "name": label.name,
        "supercategory": "thing" if thing else "stuff",
        "isthing": int(thing),
    }


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    encoded, data = cv2.imencode(".png", image, _PNG_LEVEL)
    if not encoded:
        raise DatasetError("OpenCV could not encode a PNG", where=path.name, hint="reinstall OpenCV")
    path.write_bytes(data.tobytes())


def write_json(path: Path, content: Record) -> None:
    write_text(path, json.dumps(content, separators=(",", ":")) + "\n")


def counted(indices: range, *, shown: bool) -> Iterable[int]:
    if not shown:
        return indices
    from rich.console import Console
    from rich.progress import track

    return track(indices, description="scenes", console=Console(file=sys.stderr))
