"""Scenes of faces before landscapes, written as a COCO keypoint dataset of WFLW's 98 landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.face_labels import WFLW_FACE
from edgewise.models.scenes.background import landscape
from edgewise.models.scenes.dataset import (
    IMAGE_FOLDER,
    KEYPOINTS_FILE,
    counted,
    series_size,
    write_json,
    write_png,
)
from edgewise.models.scenes.face import face_sprite
from edgewise.models.scenes.scene import PLACEMENT_TRIES, blend, expose, overlap
from edgewise.models.scenes.sprite import Points, shape_sprite
from edgewise.models.scenes.texture import Image, uniform
from edgewise.models.scenes.vocabulary import THING_NAMES
from edgewise.runtime.results.result import Record
from edgewise.runtime.system.atomic import staged_folder

SMALLEST = 16.0
"""Height of the smallest face in pixels; the largest takes half of the picture's shorter side."""
LARGEST_SHARE = 0.5
MOST_FACES = 5
MOST_SHAPES = 3
LEAST_INSIDE = 0.9
MOST_SHARED = 0.1
"""Of a face's box, that lies in another face's."""
_PIXEL_CENTRE = 0.5
"""COCO counts from the middle of the first pixel."""
_FACES = 4
"""Of the random streams of a series."""


@dataclass(frozen=True)
class FaceScene:
    """A rendered scene.

    Attributes:
        image: uint8 [h, w, 3] BGR.
        landmarks: float64 [n, 98, 3], x, y in continuous pixels and COCO's visibility (0 outside the
            picture, 1 hidden by another face, 2 visible).
        boxes: float64 [n, 4] x1 y1 x2 y2 of the landmarks and the forehead, cut at the picture's edges.
    """

    image: Image
    landmarks: NDArray[np.float64]
    boxes: NDArray[np.float64]


def render_face_scene(seed: int, index: int, size: tuple[int, int] = (256, 256)) -> FaceScene:
    """Render scene `index` of the series `seed`: up to five faces among shapes, the last one nearest.

    Args:
        seed: Series, >= 0.
        index: Scene of the series, >= 0.
        size: (height, width), each at least 64.
    """
    rng = np.random.default_rng((seed, index, _FACES))
    unit = min(size) / 256
    picture, _, _ = landscape(rng, size)
    for _ in range(int(rng.integers(MOST_SHAPES + 1))):
        name = THING_NAMES[int(rng.integers(1, len(THING_NAMES)))]
        shape = shape_sprite(rng, name, uniform(rng, 20, 110) * unit, unit)
        rows, columns = (uniform(rng, -0.1, 0.9) * side for side in size)
        blend(picture, shape, (round(rows), round(columns)), unit)
    owners = np.full(size, -1, np.int16)
    faces: list[Points] = []
    boxes: list[Points] = []
    for _ in range(int(rng.integers(MOST_FACES + 1))):
        largest = LARGEST_SHARE * min(size)
        face = face_sprite(rng, SMALLEST * (largest / SMALLEST) ** float(rng.random()), unit)
        assert face.keypoints is not None
        for _ in range(PLACEMENT_TRIES):
            height, width = face.coverage.shape
            top = round(uniform(rng, -0.1 * height, size[0] - 0.9 * height))
            left = round(uniform(rng, -0.1 * width, size[1] - 0.9 * width))
            points = face.keypoints + np.array([left, top])
            box = _box(points)
            if _fits(box, boxes, size):
                blend(picture, face, (top, left), unit)
                on_canvas, on_face = overlap(face.coverage.shape, (top, left), size)
                owners[on_canvas][face.coverage[on_face] >= 128] = len(faces)
                faces.append(points)
                boxes.append(box)
                break
    limits = (size[1], size[0])
    return FaceScene(
        expose(rng, picture),
        np.array([_labelled(points, owners, number) for number, points in enumerate(faces)]).reshape(
            -1, len(_names()), 3
        ),
        np.array([box.reshape(2, 2).clip(0, limits).ravel() for box in boxes]).reshape(-1, 4),
    )


def write_face_dataset(
    folder: Path,
    count: int,
    seed: int,
    size: int | tuple[int, int] = 256,
    *,
    replace: bool = False,
    progress: bool = False,
) -> Path:
    """Render face scenes 0..count-1 of a series and write `images/*.png` and `keypoints.json`.

    The one category is `face` with WFLW's landmarks, in fractions of a pixel. Arguments and errors are those
    of `write_dataset`, as is what is said there of seeds and of the folder.
    """
    height, width = series_size(count, seed, size)
    layout = WFLW_FACE.keypoints
    assert layout is not None
    images: list[Record] = []
    faces: list[Record] = []
    with staged_folder(folder, replace=replace) as staged:
        (staged / IMAGE_FOLDER).mkdir()
        for index in counted(range(count), shown=progress):
            scene = render_face_scene(seed, index, (height, width))
            name = f"{index:06d}.png"
            images.append({"id": index, "file_name": name, "height": height, "width": width})
            write_png(staged / IMAGE_FOLDER / name, scene.image)
            for points, (x1, y1, x2, y2) in zip(scene.landmarks, scene.boxes.round(3).tolist(), strict=True):
                faces.append(_record(len(faces) + 1, index, points, (x1, y1, x2 - x1, y2 - y1)))
        face = {
            "id": WFLW_FACE.classes[0].id,
            "name": WFLW_FACE.classes[0].name,
            "supercategory": "thing",
            "isthing": 1,
            "keypoints": list(layout.names),
            "skeleton": [[start + 1, end + 1] for start, end in layout.limbs],
        }
        info = {
            "description": "edgewise synthetic faces",
            "version": "1",
            "seed": seed,
            "count": count,
            "size": [height, width],
        }
        write_json(
            staged / KEYPOINTS_FILE,
            {"info": info, "images": images, "annotations": faces, "categories": [face]},
        )
    return folder


def _record(number: int, image_id: int, points: Points, box: tuple[float, float, float, float]) -> Record:
    written = points - np.array([_PIXEL_CENTRE, _PIXEL_CENTRE, 0])
    written[points[:, 2] == 0] = 0
    flat = [value for x, y, seen in written.tolist() for value in (round(x, 3), round(y, 3), int(seen))]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": WFLW_FACE.classes[0].id,
        "bbox": [round(value, 3) for value in box],
        "area": round(box[2] * box[3], 3),
        "iscrowd": 0,
        "keypoints": flat,
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }


def _names() -> tuple[str, ...]:
    assert WFLW_FACE.keypoints is not None
    return WFLW_FACE.keypoints.names


def _box(points: Points) -> Points:
    """[4] x1 y1 x2 y2 of the landmarks, grown upwards along the face by the forehead."""
    chin, nose = points[16], points[51]
    crown = nose + 0.8 * (nose - chin)
    everything = np.concatenate([points, crown[None]])
    return np.concatenate([everything.min(axis=0), everything.max(axis=0)])


def _fits(box: Points, others: list[Points], size: tuple[int, int]) -> bool:
    frame = np.array([0, 0, size[1], size[0]], np.float64)
    if _shared(box, frame) < LEAST_INSIDE * _area(box):
        return False
    return all(_shared(box, other) <= MOST_SHARED * min(_area(box), _area(other)) for other in others)


def _shared(first: Points, second: Points) -> float:
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    return float(np.prod(np.maximum(high - low, 0)))


def _area(box: Points) -> float:
    return float(np.prod(box[2:] - box[:2]))


def _labelled(points: Points, owners: NDArray[np.int16], owner: int) -> NDArray[np.float64]:
    """[98, 3] with COCO's visibility; a point at the edge of its own face is visible."""
    height, width = owners.shape
    columns, rows = np.floor(points).astype(int).T
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    at = owners[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    hidden = at > owner
    return np.concatenate([points, np.where(inside, np.where(hidden, 1, 2), 0)[:, None]], axis=1)
