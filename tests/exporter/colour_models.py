"""Modules whose weights are written down, with scenes that they understand: one of crops, one panoptic."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from edgewise.runtime.contract.manifest import (
    ClassKind,
    ClassLabel,
    DType,
    Graph,
    KeypointLayout,
    Manifest,
    Provenance,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints, PanopticSegments
from edgewise.runtime.contract.preprocessing import AffineCrop, ColourOrder, Stretch
from edgewise.runtime.kinds.panoptic.result import Panoptic

COPIES = 8
GREY = 110
RED, GREEN, BLUE = (20, 20, 250), (20, 250, 20), (250, 20, 20)


class ColourMaps(nn.Module):
    """How much some channels stand out from the other two, a cell for 4 x 4 pixels; about 1 where pure.

    It does so in eight copies of each map, whose mean is the result: layers of few channels, the first and
    the last stay wider than int8, and something shall be quantised.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        count, width = len(channels), COPIES * len(channels)
        colour, blur = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 4, stride=4, bias=False)
        same, mean = nn.Conv2d(width, width, 1, bias=False), nn.Conv2d(width, count, 1, bias=False)
        one = torch.eye(width)[:, :, None, None]
        with torch.no_grad():
            stands_out = (1.5 * torch.eye(3) - 0.5)[list(channels), :, None, None]
            colour.weight.copy_(stands_out.repeat(COPIES, 1, 1, 1))
            colour.bias.fill_(-0.1)
            same.weight.copy_(one)
            blur.weight.copy_(one.expand(-1, -1, 4, 4) / 14)
            mean.weight.copy_(torch.eye(count).repeat(1, COPIES)[:, :, None, None] / COPIES)
        self.layers = nn.Sequential(colour, nn.ReLU(), same, nn.ReLU(), blur, nn.ReLU(), mean)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.float().permute(0, 3, 1, 2) / 255.0)


# ---------------------------------------------------------------- people: a red head, a blue foot


class PoseByColour(nn.Module):
    """uint8 [1, 64, 48, 3] RGB in, heatmaps [1, 2, 16, 12] out."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = ColourMaps((0, 2))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.maps(image).clamp(0, 1),)


def pose_manifest() -> Manifest:
    heatmaps = TensorSpec(name="heatmaps", dtype=DType.FLOAT32, shape=(1, 2, 16, 12), value_range=(0.0, 1.0))
    return Manifest(
        writer="tests",
        name="pose-by-colour",
        classes=(ClassLabel(id=1, name="person"),),
        keypoints=KeypointLayout(names=("head", "foot"), flip_pairs=((0, 0), (1, 1)), limbs=((0, 1),)),
        provenance=Provenance(definition="tests.PoseByColour"),
        graphs={"main": Graph(inputs=(_image(64, 48),), outputs=(heatmaps,))},
        preprocess=AffineCrop(size=(64, 48), colour=ColourOrder.RGB),
        postprocess=HeatmapKeypoints(flip_test=True),
    )


def write_people(folder: Path, count: int, seed: int, empty: tuple[int, ...] = ()) -> Path:
    """`keypoints.json` and noisy images of one or two people, none in those of `empty`."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        frame = np.full((150, 200, 3), GREY, np.uint8)
        places = () if number in empty else (20.0, 120.0)[: 1 + number % 2]
        for left in places:
            x, y = left + generator.uniform(0, 10), generator.uniform(10, 40)
            points = [(x + generator.uniform(15, 45), y + 18), (x + generator.uniform(15, 45), y + 72)]
            for (px, py), colour in zip(points, (RED, BLUE), strict=True):
                cv2.circle(frame, (round(px), round(py)), 7, colour, cv2.FILLED)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": 1,
                    "bbox": [x, y, 60.0, 90.0],
                    "area": 2000.0,
                    "iscrowd": 0,
                    "num_keypoints": 2,
                    "keypoints": [value for px, py in points for value in (round(px), round(py), 2)],
                }
            )
        images.append(_write_image(folder, number, frame, generator))
    category = {"id": 1, "name": "person", "keypoints": ["head", "foot"], "skeleton": [[1, 2]]}
    data = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "keypoints.json").write_text(json.dumps(data))
    return folder


# ---------------------------------------------------------------- balls on sky over meadow


LABELS = (
    ClassLabel(id=4, name="ball"),
    ClassLabel(id=9, name="meadow", kind=ClassKind.STUFF),
    ClassLabel(id=11, name="sky", kind=ClassKind.STUFF),
)


class PanopticByColour(nn.Module):
    """uint8 [1, 64, 96, 3] RGB in; red is a ball (one in each half), green meadow, blue sky."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = ColourMaps((0, 1, 2))
        halves = torch.full((1, 16, 24), 2, dtype=torch.int32)
        halves[..., 12:] = 3
        self.register_buffer("halves", halves)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.maps(image)
        semantic = logits.argmax(dim=1).to(torch.int32)
        segments = torch.where(semantic == 0, self.halves, semantic - 1)
        balls = logits[:, 0].clamp(0, 1)
        scores = torch.stack((balls[..., :12].amax(dim=(1, 2)), balls[..., 12:].amax(dim=(1, 2))), dim=1)
        return scores, torch.zeros_like(scores, dtype=torch.int32), segments, semantic, logits


def panoptic_manifest() -> Manifest:
    outputs = (
        TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, 2), value_range=(0.0, 1.0)),
        TensorSpec(name="classes", dtype=DType.INT32, shape=(1, 2)),
        TensorSpec(name="segments", dtype=DType.INT32, shape=(1, 16, 24)),
        TensorSpec(name="semantic", dtype=DType.INT32, shape=(1, 16, 24)),
    )
    logits = TensorSpec(name="logits", dtype=DType.FLOAT32, shape=(1, 3, 16, 24))
    return Manifest(
        writer="tests",
        name="panoptic-by-colour",
        classes=LABELS,
        provenance=Provenance(definition="tests.PanopticByColour"),
        graphs={"main": Graph(inputs=(_image(64, 96),), outputs=outputs, probes=(logits,))},
        preprocess=Stretch(size=(64, 96), colour=ColourOrder.RGB),
        postprocess=PanopticSegments(stuff_area_limit=64),
    )


def write_meadows(folder: Path, count: int, seed: int) -> Path:
    """`panoptic.json`, `panoptic/` and noisy images of up to two balls on sky over meadow."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "panoptic").mkdir()
    images, annotations = [], []
    for number in range(count):
        horizon = int(generator.integers(50, 100))
        segments = np.full((150, 200), 1)
        segments[horizon:] = 2
        for ball in range(number % 3):
            centre = 50 + 100 * ball + int(generator.integers(-20, 20)), int(generator.integers(30, 120))
            disc = np.zeros(segments.shape, np.uint8)
            cv2.circle(disc, centre, 22, 1, cv2.FILLED)
            segments[disc > 0] = 3 + ball
        frame = np.array([(0, 0, 0), BLUE, GREEN, RED, RED], np.uint8)[segments]
        images.append(_write_image(folder, number, frame, generator))
        truth = Panoptic.of_segments(segments, [2, 1, 0, 0], [1, 1, 1, 1], LABELS)
        name = f"{number:03d}.png"
        annotation, picture = truth.to_coco_panoptic(number + 1, name)
        annotations.append(annotation)
        cv2.imwrite(str(folder / "panoptic" / name), picture)
    categories = [
        {"id": label.id, "name": label.name, "isthing": int(label.kind is ClassKind.THING)}
        for label in LABELS
    ]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(data))
    return folder


# ---------------------------------------------------------------- parts


def _image(height: int, width: int) -> TensorSpec:
    return TensorSpec(name="image", dtype=DType.UINT8, shape=(1, height, width, 3))


def _write_image(
    folder: Path, number: int, frame: np.ndarray, generator: np.random.Generator
) -> dict[str, object]:
    noisy = np.clip(frame + generator.normal(0, 5, frame.shape), 0, 255).astype(np.uint8)
    name = f"{number:03d}.png"
    cv2.imwrite(str(folder / "images" / name), noisy)
    return {"id": number + 1, "file_name": name, "height": frame.shape[0], "width": frame.shape[1]}
