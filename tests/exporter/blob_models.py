"""Two graphs whose weights are written down: one finds blobs and remembers, the other reads what was left."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from edgewise.runtime.contract.manifest import (
    ClassLabel,
    DType,
    Graph,
    Manifest,
    Provenance,
    StateTensor,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import PrototypeInstances
from edgewise.runtime.contract.preprocessing import ColourOrder, Stretch
from edgewise.runtime.contract.schedules import KeyEveryN
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.pixels.rle import encode_rle

from .colour_models import BLUE, COPIES, GREEN, GREY, RED, ColourMaps

SIZE, STRIDE, SLOTS = 64, 4, 4
GRID = SIZE // STRIDE
WIDTH = 3 * COPIES
FRAME = (96, 128)
"""Height and width of the scenes."""


class Slots(nn.Module):
    """One slot for each quarter of the image: the colour that stands out most in it, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        half = GRID // 2
        quarters = torch.zeros(SLOTS, GRID, GRID)
        for slot in range(SLOTS):
            top, left = half * (slot // 2), half * (slot % 2)
            quarters[slot, top : top + half, left : left + half] = 1.0
        middles = (torch.arange(GRID) + 0.5) * STRIDE
        self.register_buffer("quarters", quarters.reshape(1, SLOTS, 1, -1))
        self.register_buffer("columns", middles.repeat(GRID)[None, None])
        self.register_buffer("rows", middles.repeat_interleave(GRID)[None, None])
        self.register_buffer("colours", torch.arange(3, dtype=torch.int32)[None, None])

    def forward(self, heat: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, classes and masks of heat [1, 3, GRID, GRID]."""
        cells = heat.reshape(1, 1, 3, -1).clamp(0, 1) * self.quarters
        best = cells.amax(dim=3)
        classes = best.argmax(dim=2).to(torch.int32)
        chosen = (classes[..., None] == self.colours).float()[..., None]
        own = (cells * chosen).sum(dim=2)
        weights = own + 1e-3 * self.quarters[:, :, 0]
        total = weights.sum(dim=2)
        x, y = ((weights * place).sum(dim=2) / total for place in (self.columns, self.rows))
        boxes = torch.stack((x - 10, y - 10, x + 10, y + 10), dim=2)
        masks = torch.sigmoid(16.0 * (own - 0.4)) * self.quarters[:, :, 0]
        return boxes, best.amax(dim=2), classes, masks.reshape(1, SLOTS, GRID, GRID)


class KeyBlobs(nn.Module):
    """uint8 [1, 64, 64, 3] RGB in; blobs, and the features that the next frame reads."""

    def __init__(self) -> None:
        super().__init__()
        layers = ColourMaps((0, 1, 2)).layers
        self.features, self.heat, self.slots = layers[:-1], layers[-1], Slots()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.features(image.float().permute(0, 3, 1, 2) / 255.0)
        heat = self.heat(features)
        return (*self.slots(heat), features, heat)


class NonkeyBlobs(KeyBlobs):
    """The same of the mean of what it sees and of what the frame before left."""

    def __init__(self) -> None:
        super().__init__()
        one = torch.eye(WIDTH)[:, :, None, None]
        mix = nn.Conv2d(2 * WIDTH, WIDTH, 1, bias=False)
        with torch.no_grad():
            mix.weight.copy_(torch.cat((one, one), dim=1) / 2)
        self.mix = nn.Sequential(mix, nn.ReLU())

    def forward(self, image: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        seen = self.features(image.float().permute(0, 3, 1, 2) / 255.0)
        heat = self.heat(self.mix(torch.cat((seen, before), dim=1)))
        return (*self.slots(heat), heat)


LABELS = tuple(ClassLabel(id=number, name=name) for number, name in enumerate(("red", "green", "blue"), 1))


def blobs() -> dict[str, nn.Module]:
    return {"key": KeyBlobs().eval(), "nonkey": NonkeyBlobs().eval()}


def blobs_manifest() -> Manifest:
    image = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, SIZE, SIZE, 3))
    features = TensorSpec(name="features", dtype=DType.FLOAT32, shape=(1, WIDTH, GRID, GRID))
    before = TensorSpec(name="before", dtype=DType.FLOAT32, shape=features.shape)
    outputs = (
        TensorSpec(name="boxes", dtype=DType.FLOAT32, shape=(1, SLOTS, 4)),
        TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, SLOTS), value_range=(0.0, 1.0)),
        TensorSpec(name="classes", dtype=DType.INT32, shape=(1, SLOTS)),
        TensorSpec(name="masks", dtype=DType.FLOAT32, shape=(1, SLOTS, GRID, GRID), value_range=(0.0, 1.0)),
    )
    heat = TensorSpec(name="heat", dtype=DType.FLOAT32, shape=(1, 3, GRID, GRID))
    return Manifest(
        writer="tests",
        name="blobs",
        classes=LABELS,
        provenance=Provenance(definition="tests.Blobs"),
        graphs={
            "key": Graph(inputs=(image,), outputs=(*outputs, features), probes=(heat,)),
            "nonkey": Graph(inputs=(image, before), outputs=outputs, probes=(heat,)),
        },
        state=(StateTensor(name="seen", spec=features, source="key.features", sinks=("nonkey.before",)),),
        schedule=KeyEveryN(key="key", nonkey="nonkey", n=2),
        preprocess=Stretch(size=(SIZE, SIZE), colour=ColourOrder.RGB),
        postprocess=PrototypeInstances(score_threshold=0.1, display_threshold=0.3),
    )


def write_clip(folder: Path, count: int, seed: int) -> Path:
    """`instances.json` and noisy consecutive frames: discs that move in three quarters of the image."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    starts = [(32, 24), (96, 24), (32, 72)]
    images, annotations = [], []
    for number in range(count):
        frame = np.full((*FRAME, 3), GREY, np.uint8)
        for label, colour, (x, y) in zip(LABELS, (RED, GREEN, BLUE), starts, strict=True):
            disc = np.zeros(FRAME, np.uint8)
            cv2.circle(disc, (x + number % 6 - 3, y + (seed + number) % 5 - 2), 14, 1, cv2.FILLED)
            frame[disc > 0] = colour
            mask = crop_dense(disc[None] > 0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": label.id,
                    "bbox": mask.places[0].tolist(),
                    "area": int(disc.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": list(FRAME), "counts": encode_rle(mask)[0]},
                }
            )
        frame = np.clip(frame + generator.normal(0, 5, frame.shape), 0, 255).astype(np.uint8)
        name = f"{number:03d}.png"
        cv2.imwrite(str(folder / "images" / name), frame)
        images.append({"id": number + 1, "file_name": name, "height": FRAME[0], "width": FRAME[1]})
    categories = [{"id": label.id, "name": label.name} for label in LABELS]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(data))
    return folder
