"""Heatmaps become keypoints of people, for all people and joints of a frame at once.

Heatmap coordinates are continuous: cell (i, j) (row, column) covers [j, j + 1) x [i, i + 1) and its centre
is (j + 0.5, i + 0.5). What a cell stands for in the network's input is the manifest's say (`cells.py`), and
the crop's inverse affine map leads from there to the frame.

Four rules place a point, all starting from the first maximum of its map:

- `quarter-pixel` (bearpaw's and anibali's stacked hourglass, HRNet's faces): a quarter of a cell towards the
  greater of the two neighbours, on each axis; not on the border of the map, and not between equal neighbours.
- `quarter-inside` (SimpleBaseline, HRNet): the same, but not in the second column and row either.
- `quarter-always` (princeton's stacked hourglass): values above 1 count as 1. A quarter of a cell to the
  right or down where the neighbour there is the greater, otherwise to the left or up, also between equals;
  beyond the border stands the border's own value. Not where the maximum is not positive.
- DARK (Zhang et al., Distribution-Aware Coordinate Representation, 2020): the map is smoothed by a Gaussian,
  and one Newton step on its logarithm goes from the peak to the maximum of the fitted Gaussian.

Where this leaves the published code on purpose (crops: see `crop_source` in `frames/preprocessing.py`):

- Points stay continuous. bearpaw's hourglass code, princeton's and HRNet's for faces truncate the point to
  whole source pixels (bearpaw's counts them from 1); anibali's code and HRNet's for people do not.
- Points count from the outer corner of the first pixel: half a pixel more than the numbers that
  SimpleBaseline's, HRNet's and DARK's code gives for COCO, half a pixel less than those that it gives for
  MPII, which begin at 1.
- Of equal maxima the first counts, as in bearpaw's and HRNet's code; which one princeton's takes is up to the
  sort of its torch.
- A map without a positive value scores 0 and keeps its maximum's place; the published code moves it to the
  first cell, princeton's to an arbitrary one. Scores are held inside 0..1; bearpaw's, anibali's and HRNet's
  code does not hold them, princeton's holds them below 1.
- The flip test averages, as princeton's, anibali's and HRNet's code does (bearpaw's adds, which doubles the
  scores), and is off unless asked for; princeton's code always makes it. The crop is mirrored about its exact
  middle, so column j of w goes to column w - 1 - j. Where a cell stands for the pixel of its number, that is
  not where the mirrored point is: SimpleBaseline's and HRNet's code moves the map by a column (`flip_shift`),
  which leaves a quarter of a cell; DARK's does not need to.
- A person's score is the box's times the mean of the points'; the hourglass code gives none.
- DARK's smoothed map is not scaled back to the maximum before, since a factor is a constant in the logarithm,
  and it is computed only where the step looks, which gives the same numbers. The step is not taken where the
  surface is no peak, or farther than the two cells that its differences see; there the cell's centre stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import KeypointLayout, Manifest
from edgewise.runtime.contract.postprocessing import HeatmapDecoding, HeatmapKeypoints, RegressedKeypoints
from edgewise.runtime.frames.looks import FrameBoxes, Looks, whole_frame
from edgewise.runtime.kinds.keypoints.cells import cells_to_source
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.pixels.geometry import Geometry
from edgewise.runtime.results.outputs import Outputs, read_output
from edgewise.runtime.system.errors import ResultError

Heatmaps = NDArray[np.float32]
Points = NDArray[np.float64]
Cells = NDArray[np.intp]

BLUR_KERNEL = 11
"""Cells; of DARK's Gaussian, in every published configuration of 256x192 and larger."""
_REACH = 2
"""How far DARK's differences look from the peak."""
_FLOOR = 1e-10
"""Least smoothed value whose logarithm DARK takes."""


def decode_keypoints(
    spec: HeatmapKeypoints, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> Keypoints:
    """Decode the heatmaps of all looks at one frame: one person a box, in the order of the boxes.

    A person's score is the box's times the mean score of the points that score at least
    `spec.score_threshold` (0 where none does).

    Args:
        spec: Output name, decoding, flip test and thresholds.
        manifest: Its classes (people are of the first) and keypoints.
        looks: The looks, each person's straight one followed by its mirrored one where `spec.flip_test`.
        outputs: One mapping a look; the heatmaps are float32 [1, k, h, w].

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or the looks are not those of
            `spec`.
    """
    layout, people, straight = people_looked_at(spec, manifest, looks)
    count = len(layout.names)
    if not len(people):
        points, point_scores = np.zeros((0, count, 2)), np.zeros((0, count), np.float32)
    else:
        heatmaps = np.concatenate(
            [read_output(output, spec.heatmaps, (1, count, None, None), np.float32) for output in outputs]
        )
        if spec.flip_test:
            heatmaps = average_mirrored(heatmaps[::2], heatmaps[1::2], layout.flip_pairs, spec.flip_shift)
        try:
            cells, point_scores = decode_heatmaps(heatmaps, spec.decoding)
        except ResultError as error:
            raise ResultError(error.what, where=f"output {spec.heatmaps!r}", hint=error.hint) from None
        map_size = heatmaps.shape[2], heatmaps.shape[3]
        points = cells_to_source(spec.cells, cells, map_size, straight)
    return people_of_crops(spec, manifest, looks, points, point_scores)


def people_looked_at(
    spec: HeatmapKeypoints | RegressedKeypoints, manifest: Manifest, looks: Looks
) -> tuple[KeypointLayout, FrameBoxes, list[Geometry]]:
    """The manifest's keypoints, the boxes that were looked at, and where each box's straight look lies.

    Raises:
        ResultError: The looks are not those of `spec`, or the manifest names no keypoints.
    """
    if manifest.keypoints is None:
        raise ResultError("the manifest names no keypoints", where=manifest.name, hint="export it again")
    people = looks.boxes if looks.boxes is not None else whole_frame(looks.frame_size)
    each = 2 if spec.flip_test else 1
    mirrored = [look.mirrored for look in looks.looks]
    if mirrored != [False, True][:each] * len(people):
        raise ResultError(
            f"{len(people)} people and {'a' if spec.flip_test else 'no'} flip test do not fit "
            f"{len(looks.looks)} looks, of which {sum(mirrored)} are mirrored",
            hint="make the looks with looks_of and the same manifest",
        )
    return manifest.keypoints, people, [look.geometry for look in looks.looks[::each]]


def people_of_crops(
    spec: HeatmapKeypoints | RegressedKeypoints,
    manifest: Manifest,
    looks: Looks,
    points: Points,
    point_scores: NDArray[np.float32],
) -> Keypoints:
    """One person a box: points float64 [n, k, 2] in frame pixels, and their scores float32 [n, k]."""
    layout, people, _ = people_looked_at(spec, manifest, looks)
    return Keypoints(
        points=points.astype(np.float32),
        point_scores=point_scores,
        boxes=people.boxes.astype(np.float32),
        scores=person_scores(people.scores, point_scores, spec.score_threshold),
        classes=np.zeros(len(people), np.int32),
        labels=manifest.classes,
        layout=layout,
        frame_size=looks.frame_size,
        display_threshold=spec.display_threshold,
        point_threshold=spec.score_threshold,
    )


def decode_heatmaps(heatmaps: Heatmaps, decoding: HeatmapDecoding) -> tuple[Points, NDArray[np.float32]]:
    """The place and score of the peak of every map.

    Args:
        heatmaps: float32 [n, k, h, w].
        decoding: The rule that places the point inside and around its cell.

    Returns:
        float64 [n, k, 2], x and y in continuous heatmap cells, and float32 [n, k], the maxima held in 0..1.

    Raises:
        ResultError: A map holds NaN or infinity.
    """
    people, joints, height, width = heatmaps.shape
    maps = heatmaps.reshape(people * joints, height, width)
    if decoding is HeatmapDecoding.QUARTER_ALWAYS:
        maps = np.minimum(maps, np.float32(1))
    flat = maps.reshape(len(maps), height * width)
    first = flat.argmax(axis=1)
    peaks = flat[np.arange(len(flat)), first]
    _require_finite(peaks)
    rows, columns = np.divmod(first, width)
    if decoding is HeatmapDecoding.DARK:
        shift = _newton_steps(maps, rows, columns)
    elif decoding is HeatmapDecoding.QUARTER_ALWAYS:
        shift = np.where(peaks[:, None] > 0, _quarters_always(maps, rows, columns), 0.0)
    else:
        shift = _quarters(maps, rows, columns, 2 if decoding is HeatmapDecoding.QUARTER_INSIDE else 1)
    _require_finite(shift)
    cells = np.stack([columns, rows], axis=1) + 0.5 + shift
    return cells.reshape(people, joints, 2), np.clip(peaks, 0, 1).reshape(people, joints)


def average_mirrored(
    straight: Heatmaps, mirrored: Heatmaps, flip_pairs: Sequence[tuple[int, int]], shift: bool = False
) -> Heatmaps:
    """The flip test: mean of the maps and of the mirrored look's, turned back with left and right exchanged.

    Args:
        straight: float32 [n, k, h, w].
        mirrored: float32 [n, k, h, w], of the same crops mirrored left to right.
        flip_pairs: Indices of the keypoints that change places in a mirror.
        shift: Move the turned maps one column to the right; their first column stays and is also the second.
    """
    turned = mirrored[:, mirror_order(straight.shape[1], flip_pairs), :, ::-1]
    if shift:
        turned = np.concatenate([turned[..., :1], turned[..., :-1]], axis=3)
    return (straight + turned) * np.float32(0.5)


def mirror_order(count: int, flip_pairs: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """For each of `count` keypoints the one that stands in its place in a mirror."""
    order = np.arange(count)
    for left, right in flip_pairs:
        order[[left, right]] = right, left
    return order


def person_scores(
    boxes: NDArray[np.float32], points: NDArray[np.float32], threshold: float
) -> NDArray[np.float32]:
    """Box scores [n] times the mean of those point scores [n, k] that are at least the threshold."""
    counted = points >= threshold
    total = np.where(counted, points, 0).sum(axis=1)
    return (boxes * total / np.maximum(counted.sum(axis=1), 1)).astype(np.float32)


def _quarters(maps: Heatmaps, rows: Cells, columns: Cells, first: int) -> Points:
    """A quarter towards the greater neighbours, from column and row `first` to the last but one."""
    height, width = maps.shape[1:]
    inside = (columns >= first) & (columns < width - 1) & (rows >= first) & (rows < height - 1)
    which = np.flatnonzero(inside)
    at = (which * height + rows[which]) * width + columns[which]
    values = maps.ravel()
    shift = np.zeros((len(maps), 2))
    shift[which, 0] = np.sign(values[at + 1] - values[at - 1])
    shift[which, 1] = np.sign(values[at + width] - values[at - width])
    return 0.25 * shift


def _quarters_always(maps: Heatmaps, rows: Cells, columns: Cells) -> Points:
    height, width = maps.shape[1:]
    each = np.arange(len(maps))
    after = maps[each, rows, np.minimum(columns + 1, width - 1)]
    below = maps[each, np.minimum(rows + 1, height - 1), columns]
    greater = np.stack(
        [
            after > maps[each, rows, np.maximum(columns - 1, 0)],
            below > maps[each, np.maximum(rows - 1, 0), columns],
        ],
        axis=1,
    )
    return np.where(greater, 0.25, -0.25)


def _newton_steps(maps: Heatmaps, rows: Cells, columns: Cells) -> Points:
    """One step on the logarithm of the smoothed maps, [n, 2]; zero where DARK takes none."""
    height, width = maps.shape[1:]
    inside = (columns >= _REACH) & (columns < width - _REACH) & (rows >= _REACH) & (rows < height - _REACH)
    steps = np.zeros((len(maps), 2))
    which = np.flatnonzero(inside)
    logs = np.log(np.maximum(_smoothed_about(maps, which, rows[which], columns[which]), _FLOOR))
    at = _REACH
    dx = 0.5 * (logs[:, at, at + 1] - logs[:, at, at - 1])
    dy = 0.5 * (logs[:, at + 1, at] - logs[:, at - 1, at])
    dxx = 0.25 * (logs[:, at, at + 2] - 2 * logs[:, at, at] + logs[:, at, at - 2])
    dyy = 0.25 * (logs[:, at + 2, at] - 2 * logs[:, at, at] + logs[:, at - 2, at])
    diagonal = logs[:, at + 1, at + 1] + logs[:, at - 1, at - 1]
    dxy = 0.25 * (diagonal - logs[:, at + 1, at - 1] - logs[:, at - 1, at + 1])
    determinant = dxx * dyy - dxy * dxy
    peak = (determinant > 0) & (dxx < 0)
    safe = np.where(peak, determinant, 1.0)
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=1) / safe[:, None]
    taken = peak & (np.abs(step) <= _REACH).all(axis=1)
    steps[which[taken]] = step[taken]
    return steps


def _smoothed_about(maps: Heatmaps, which: Cells, rows: Cells, columns: Cells) -> Points:
    """The maps under DARK's Gaussian with zeros around, float64 [n, 5, 5] about the given cells."""
    margin = BLUR_KERNEL // 2
    side = 2 * (margin + _REACH) + 1
    offsets = np.arange(side) - side // 2
    row, column = rows[:, None] + offsets, columns[:, None] + offsets
    height, width = maps.shape[1:]
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
    patches = maps[
        which[:, None, None],
        np.clip(row, 0, height - 1)[:, :, None],
        np.clip(column, 0, width - 1)[:, None, :],
    ]
    # Row r of the band holds the kernel that gives the smoothed value r cells into the window.
    kernel = cv2.getGaussianKernel(BLUR_KERNEL, 0)[:, 0]
    band = np.zeros((2 * _REACH + 1, side))
    for start, row_of_band in enumerate(band):
        row_of_band[start : start + BLUR_KERNEL] = kernel
    return band @ np.where(inside, patches, 0).astype(np.float64) @ band.T


def _require_finite(values: NDArray[np.floating]) -> None:
    # Given maxima: one is not finite where its map holds NaN or infinity, so no other value is looked at.
    if not np.isfinite(values).all():
        raise ResultError("holds a value that is not finite", hint="run `edgewise selftest` on the bundle")
