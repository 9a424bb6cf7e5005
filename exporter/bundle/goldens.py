"""Golden samples: frames with what the training definition gave for them, rerun on the device by `selftest`.

A golden is a PNG of the source frame with the boxes that a model of crops looks at, an .npz of the graph's
outputs and probes as torch computed them (the looks at the frame stacked), and the decoded result as JSON in
source coordinates.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgewise.exporter.graph.numerics import Tensors
from edgewise.runtime.contract.manifest import Golden, Graph, Manifest
from edgewise.runtime.contract.preprocessing import AffineCrop, AsIs, Preprocess
from edgewise.runtime.decoding.decode import postprocess
from edgewise.runtime.frames.looks import FrameBoxes, views_of
from edgewise.runtime.system.errors import ExportError, SourceError

GOLDEN_COUNT = 4
"""Fewest frames of a bundle: three pictures and a plain grey one, where a trained detector finds nothing."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame (uint8 BGR), and where a model of crops looks in it; None where nobody said."""

    frame: np.ndarray
    boxes: FrameBoxes | None = None


@dataclass(frozen=True)
class GoldenFiles:
    """The manifest's entry and the content of its files."""

    golden: Golden
    files: Mapping[str, bytes]


def make_goldens(
    manifest: Manifest,
    graph: Graph,
    pictures: Sequence[Picture],
    reference: Sequence[Sequence[Tensors]],
) -> list[GoldenFiles]:
    """Keep everything that the training definition says about some pictures.

    Args:
        reference: Outputs and probes of every look at each picture, from `onnx_export.run_module`.

    Raises:
        ResultError: Outputs that the manifest's postprocessing cannot decode.
    """
    made = []
    for number, (picture, looks) in enumerate(zip(pictures, reference, strict=True)):
        views = views_of(manifest, picture.frame, picture.boxes)
        outputs = [{spec.name: look[spec.name] for spec in graph.outputs} for look in looks]
        result = postprocess(manifest, views, outputs)
        stem = f"goldens/{number:03d}"
        boxes = () if views.boxes is None else tuple(tuple(box) for box in views.boxes.boxes.tolist())
        golden = Golden(image=f"{stem}.png", tensors=f"{stem}.npz", result=f"{stem}.json", boxes=boxes)
        stacked = {name: np.concatenate([look[name] for look in looks]) for name in looks[0]}
        files = {
            golden.image: encode_png(picture.frame),
            golden.tensors: encode_npz(stacked),
            golden.result: json.dumps(result.to_coco(image_id=number), indent=1).encode() + b"\n",
        }
        made.append(GoldenFiles(golden, files))
    return made


def read_frames(paths: Sequence[Path]) -> list[np.ndarray]:
    """Read images as uint8 BGR.

    Raises:
        SourceError: A file that is missing or no image.
    """
    frames = []
    for path in paths:
        if not path.is_file():
            raise SourceError("no such image", where=str(path))
        frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if frame is None:
            raise SourceError(
                "the image cannot be decoded", where=str(path), hint="remove it or save it again"
            )
        frames.append(frame)
    return frames


def golden_pictures(
    spec: Preprocess, pictures: Sequence[Picture] = (), *, count: int = GOLDEN_COUNT, seed: int = 0
) -> list[Picture]:
    """What a bundle's goldens show, `count` of them or one more than there are pictures.

    For a model of whole frames: the pictures, drawn ones where they are too few, and a plain grey one. For a
    model of crops no plain one, which has nothing to look at, and a drawn box in every picture without boxes.
    """
    crops = isinstance(spec, AffineCrop)
    made = [Picture(one.frame, one.boxes if crops else None) for one in pictures]
    generator = np.random.default_rng(seed)
    while len(made) < count - 1:
        made.append(Picture(drawn_frame(_frame_size(spec, generator), generator)))
    if crops:
        return [
            one if one.boxes is not None else Picture(one.frame, drawn_box(one.frame, generator))
            for one in made
        ]
    height, width = _frame_size(spec, generator)
    return [*made, Picture(np.full((height, width, 3), 114, np.uint8))]


def drawn_box(frame: np.ndarray, generator: np.random.Generator) -> FrameBoxes:
    """One box of score 1 somewhere in a frame, of a third to nine tenths of each side."""
    sides = np.array([frame.shape[1], frame.shape[0]]) * generator.uniform(1 / 3, 0.9, 2)
    corner = generator.uniform(0, 1, 2) * (np.array([frame.shape[1], frame.shape[0]]) - sides)
    return FrameBoxes(np.concatenate([corner, corner + sides])[None], np.ones(1, np.float32))


def drawn_frame(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """A frame of smooth colour with a dozen overlapping filled shapes and a little noise; uint8 BGR."""
    height, width = size
    coarse = generator.integers(40, 216, (4, 5, 3)).astype(np.uint8)
    frame = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        centre = int(generator.integers(0, width)), int(generator.integers(0, height))
        axes = (
            int(generator.integers(width // 40 + 1, width // 6 + 2)),
            int(generator.integers(height // 40 + 1, height // 6 + 2)),
        )
        if generator.random() < 0.5:
            corner = centre[0] + axes[0], centre[1] + axes[1]
            cv2.rectangle(frame, centre, corner, colour, cv2.FILLED)
        else:
            cv2.ellipse(frame, centre, axes, float(generator.uniform(0, 180)), 0, 360, colour, cv2.FILLED)
    noise = generator.normal(0, 4, frame.shape)
    return np.clip(frame + noise, 0, 255).astype(np.uint8)


def _frame_size(spec: Preprocess, generator: np.random.Generator) -> tuple[int, int]:
    """A (height, width) that is not the network's, so that goldens exercise the geometry too."""
    height, width = spec.size
    if isinstance(spec, AsIs):
        return height, width
    ratio = float(generator.uniform(0.8, 1.2))
    return max(8, round(height * ratio)), max(8, round(width * 1.25 * ratio))


def encode_png(frame: np.ndarray) -> bytes:
    """Lossless PNG of a uint8 BGR frame."""
    done, data = cv2.imencode(".png", frame)
    if not done:
        raise ExportError("a golden frame cannot be encoded as PNG", where=str(frame.shape))
    return data.tobytes()


def encode_npz(tensors: Tensors) -> bytes:
    """Compressed .npz; the same tensors give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(tensors))  # type: ignore[arg-type]
    return buffer.getvalue()
