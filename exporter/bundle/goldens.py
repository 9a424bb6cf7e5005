"""Goldens: clips with what the training definition gave for them, rerun on the device by `selftest`.

Each frame of a clip is a PNG of the source frame with the boxes that a model of crops looks at, an .npz of
the outputs and probes of the graph that ran as torch computed them (the looks at the frame stacked), and the
decoded result as JSON in source coordinates.
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
from edgewise.runtime.contract.manifest import Golden, GoldenFrame, Manifest
from edgewise.runtime.contract.preprocessing import AsIs, Preprocess
from edgewise.runtime.contract.schedules import KeyEveryN, KeyOnSceneChange
from edgewise.runtime.frames.images import read_image
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.system.errors import EdgewiseError, ExportError
from edgewise.runtime.walk.extremes import extreme_frames
from edgewise.runtime.walk.walk import Prepared, Walk

GOLDEN_COUNT = 4
"""Fewest clips of a bundle: three pictures and a plain grey one, where a trained detector finds nothing."""
LONGEST_CLIP = 4
PAN = 0.02
"""Share of the width by which a clip's next frame has moved."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame (uint8 BGR), and where a model of crops looks in it; None where nobody said."""

    frame: np.ndarray
    boxes: FrameBoxes | None = None


Clip = tuple[Picture, ...]
"""Consecutive frames; the first of them starts without state."""


@dataclass(frozen=True)
class GoldenFiles:
    """The manifest's entry and the content of its files."""

    golden: Golden
    files: Mapping[str, bytes]


def make_goldens(
    manifest: Manifest, walk: Walk, clips: Sequence[Clip]
) -> tuple[list[GoldenFiles], list[list[Prepared]]]:
    """Keep everything that the training definition says about some clips.

    Args:
        walk: With runners that give the training definition's outputs and probes.
        clips: Each starts without state.

    Returns:
        The goldens, and the preprocessed frames of each clip.

    Raises:
        ExportError: A graph of the schedule that no clip runs, or an output that does not fit the manifest.
        ResultError: Outputs that the manifest's postprocessing cannot decode.
    """
    made: list[GoldenFiles] = []
    prepared: list[list[Prepared]] = []
    number = 0
    for clip in clips:
        walk.reset()
        frames: list[GoldenFrame] = []
        files: dict[str, bytes] = {}
        prepared.append([])
        for picture in clip:
            stem = f"goldens/{number:03d}"
            ready = walk.prepare(Frame(number, stem, picture.frame, 0.0), picture.boxes)
            frame, content = _golden_frame(walk, ready, stem, number)
            frames.append(frame)
            files.update(content)
            prepared[-1].append(ready)
            number += 1
        made.append(GoldenFiles(Golden(frames=tuple(frames)), files))
    ran = {ready.graph for clip in prepared for ready in clip}
    if unproven := [graph for graph in manifest.schedule.graphs if graph not in ran]:
        raise ExportError(
            f"no golden clip runs the graph {unproven[0]!r}, so nothing would prove it",
            where=manifest.name,
            hint="give clips (ExportOptions.clips) whose frames make the schedule run every graph",
        )
    return made, prepared


def require_extremes(walk: Walk) -> None:
    """Raise ExportError where graphs in FP32 give no result on a black, white or noisy frame."""
    walk.reset()
    for frame, boxes in extreme_frames(walk.manifest):
        try:
            walk.finish(walk.infer(walk.prepare(frame, boxes)))
        except EdgewiseError as error:
            raise ExportError(
                f"the network gives no result on {frame.name}: {error.what}",
                where=error.where,
                hint="keep divisors and logarithms from 0 and exponents small (clamp) in the deploy module",
            ) from error


def _golden_frame(
    walk: Walk, ready: Prepared, stem: str, number: int
) -> tuple[GoldenFrame, dict[str, bytes]]:
    inferred = walk.infer(ready)
    records = walk.finish(inferred).records(image_id=number)
    where = ready.looks.boxes
    boxes = () if where is None else tuple(tuple(box) for box in where.boxes.tolist())
    frame = GoldenFrame(image=f"{stem}.png", tensors=f"{stem}.npz", result=f"{stem}.json", boxes=boxes)
    looks = inferred.outputs
    stacked = {name: np.concatenate([look[name] for look in looks]) for name in looks[0]}
    return frame, {
        frame.image: encode_png(ready.frame.image),
        frame.tensors: encode_npz(stacked),
        frame.result: json.dumps(records, indent=1).encode() + b"\n",
    }


def clips_of(manifest: Manifest, pictures: Sequence[Picture]) -> list[Clip]:
    """Pictures as the clips that a bundle is proven on and calibrated with.

    A model whose frames are independent takes each picture for itself. For others a picture becomes a short
    pan over it, long enough that the schedule runs every graph and comes back to the first.
    """
    schedule = manifest.schedule
    if not manifest.state and len(schedule.graphs) == 1:
        return [(picture,) for picture in pictures]
    if isinstance(schedule, KeyOnSceneChange):
        # An unchanged second frame is no change of the scene, whatever the threshold.
        steps = [0, 0, 1]
    else:
        steps = list(range(min(schedule.n + 1, LONGEST_CLIP) if isinstance(schedule, KeyEveryN) else 3))
    return [tuple(_panned(picture, step) for step in steps) for picture in pictures]


def _panned(picture: Picture, step: int) -> Picture:
    """The picture moved to the left by some steps, mirrored at its border."""
    shift = step * max(1, round(PAN * picture.frame.shape[1]))
    if not shift:
        return picture
    padded = cv2.copyMakeBorder(picture.frame, 0, 0, 0, shift, cv2.BORDER_REFLECT_101)
    return Picture(np.ascontiguousarray(padded[:, shift:]))


def read_frames(paths: Sequence[Path]) -> list[np.ndarray]:
    """Read images as uint8 BGR.

    Raises:
        SourceError: A file that is missing or no image.
    """
    return [read_image(path) for path in paths]


def golden_pictures(
    spec: Preprocess, pictures: Sequence[Picture] = (), *, count: int = GOLDEN_COUNT, seed: int = 0
) -> list[Picture]:
    """What a bundle's goldens show, `count` of them or one more than there are pictures.

    For a model of whole frames: the pictures, drawn ones where they are too few, and a plain grey one. For a
    model of crops no plain one, which has nothing to look at, and a drawn box in every picture without boxes.
    """
    crops = spec.needs_boxes
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
