"""Instances and a semantic map become one map of segments, in score order.

The rule is written down in docs/panoptic-fusion.md. All its decisions are counts of pixels. The map is built
column by column, as the crops of the masks lie, and only under the crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel, Manifest
from edgewise.runtime.contract.postprocessing import (
    PanopticFusion,
)
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.panoptic.result import MOST_SEGMENTS, Panoptic
from edgewise.runtime.pixels.label_maps import (
    LabelMap,
    as_mask,
    label_runs,
    narrowest,
    nearest_grid,
    rename_labels,
)
from edgewise.runtime.pixels.masks import IntArray, MaskCrops
from edgewise.runtime.results.outputs import Outputs, only_look, read_output, require
from edgewise.runtime.results.slots import read_things
from edgewise.runtime.system.errors import ResultError


def decode_fusion(
    spec: PanopticFusion, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> Panoptic:
    """Paste the instances, resample the semantic map to the frame, and `fuse` both.

    Args:
        spec: Output names, thresholds and limits.
        manifest: Its classes.
        looks: The one look at the frame.
        outputs: Of that look: boxes, scores, classes, masks and settled as for instances; semantic float32
            [1, C, h, w] logits or uint8, int32 or int64 [1, h, w] channel numbers, over the whole network
            input. The channel of a cell is the one with the greatest logit, the lowest of equal ones.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or out of range.
    """
    geometry, only = only_look(looks, outputs)
    channels = _channels(spec, only)
    grid = nearest_grid(geometry, (channels.shape[0], channels.shape[1]))
    outside = len(spec.semantic_classes)
    semantic = grid.spread(grid.seen(channels).astype(narrowest(outside + 1)), outside)
    found = read_things(spec, len(manifest.classes), only, geometry)
    return fuse(
        found.masks,
        found.scores,
        found.classes,
        semantic,
        (*spec.semantic_classes, -1),
        manifest.classes,
        overlap_limit=spec.overlap_limit,
        stuff_area_limit=spec.stuff_area_limit,
        display_threshold=spec.display_threshold,
        settled=found.settled,
    )


def fuse(
    masks: MaskCrops,
    scores: NDArray[np.float32],
    classes: NDArray[np.integer[Any]],
    semantic: LabelMap,
    semantic_classes: Sequence[int],
    labels: tuple[ClassLabel, ...],
    *,
    overlap_limit: float = 0.5,
    stuff_area_limit: int = 4096,
    display_threshold: float = 0.5,
    settled: bool = True,
) -> Panoptic:
    """Instances by falling score, each on what is left free, then stuff on the rest.

    An instance without a pixel is left out, and so is one of whose pixels more than `overlap_limit` are taken
    already; the others take their free pixels. Of the pixels that no instance took, those of a stuff class
    become its segment where they are at least `stuff_area_limit`. The rest is void.

    Args:
        masks: n instances; they may overlap.
        scores: float [n]; equal ones keep their order.
        classes: int [n], index into `labels`.
        semantic: Integers [height, width] of the frame, index into `semantic_classes`; fastest as uint8.
        semantic_classes: Index into `labels` of each semantic value; -1, or a thing, for one without stuff.
        labels: All classes.
        overlap_limit: 0..1.
        stuff_area_limit: In pixels.
        display_threshold: Of the result.
        settled: Whether the instances' suppression had rounds enough.

    Raises:
        ResultError: The arrays do not belong together, or there are more instances and semantic values
            than a map has ids.
    """
    owners = _stuff_owners(semantic_classes, labels)
    _check(masks, scores, classes, semantic, len(owners), labels)
    most = len(masks) + len(owners)
    if most > MOST_SEGMENTS:
        raise ResultError(f"{len(masks)} instances and {len(owners)} semantic values are too many for a map")
    order = np.argsort(-scores, kind="stable")
    columns: LabelMap = np.zeros(masks.frame_size[::-1], narrowest(most + 1))
    kept = _lay(masks, order, overlap_limit, columns)
    count = len(kept)

    # Ids of things, and above them the semantic values of the rest.
    codes: LabelMap = np.add(semantic, count + 1, dtype=columns.dtype, casting="unsafe")
    things = np.asarray(cv2.transpose(columns)).reshape(codes.shape)
    cv2.copyTo(things, as_mask(things != 0), codes)
    runs = label_runs(codes)
    counted = runs.areas(count + 1 + len(owners))[count + 1 :]
    stuff_areas = np.zeros(len(labels), np.int64)
    np.add.at(stuff_areas, owners[owners >= 0], counted[owners >= 0])
    shown = np.flatnonzero((stuff_areas >= stuff_area_limit) & (stuff_areas > 0))
    names = np.zeros(count + 1 + len(owners), np.uint16)
    names[: count + 1] = np.arange(count + 1)
    for number, category in enumerate(shown.tolist(), count + 1):
        names[count + 1 :][owners == category] = number
    runs, total = runs.renamed(names), count + len(shown)
    return Panoptic(
        segments=rename_labels(codes, names),
        boxes=runs.boxes(total + 1)[1:].astype(np.float32),
        scores=np.concatenate([scores[kept], np.ones(len(shown))]).astype(np.float32),
        classes=np.concatenate([classes[kept], shown]).astype(np.int32),
        areas=runs.areas(total + 1)[1:],
        labels=labels,
        frame_size=masks.frame_size,
        display_threshold=display_threshold,
        settled=settled,
    )


def _lay(masks: MaskCrops, order: IntArray, overlap_limit: float, columns: LabelMap) -> IntArray:
    """Write the ids 1.. of the instances that find room into the empty map [width, height].

    Returns:
        int64 [k], the instances' indices.
    """
    crops, places = list(masks), masks.places.tolist()
    kept: list[int] = []
    for index in order.tolist():
        x, y, w, h = places[index]
        crop = crops[index].T
        area = int(np.count_nonzero(crop))
        region = columns[x : x + w, y : y + h]
        room = crop & (region == 0)
        left = int(np.count_nonzero(room))
        if not left or (area - left) / area > overlap_limit:
            continue
        kept.append(index)
        # The room holds zeros, so that adding is writing.
        region += room.view(np.uint8) * region.dtype.type(len(kept))
    return np.array(kept, np.int64)


def _stuff_owners(semantic_classes: Sequence[int], labels: tuple[ClassLabel, ...]) -> IntArray:
    """int64 [C], the stuff class of each semantic value, -1 for none."""
    owners = np.array(semantic_classes, np.int64).reshape(-1)
    if ((owners < -1) | (owners >= len(labels))).any():
        raise ResultError(
            f"a semantic class lies outside the {len(labels)} labels",
            where="semantic_classes",
            hint="correct the manifest that was passed to export",
        )
    things = np.array([label.kind is ClassKind.THING for label in labels], np.bool_)
    # Index -1 reads the last label and gets -1 in any case.
    return np.where(things[owners], -1, owners)


def _check(
    masks: MaskCrops,
    scores: NDArray[np.float32],
    classes: NDArray[np.integer[Any]],
    semantic: LabelMap,
    values: int,
    labels: tuple[ClassLabel, ...],
) -> None:
    count = len(masks)
    if scores.shape != (count,) or classes.shape != (count,) or not np.isfinite(scores).all():
        raise ResultError(
            f"{count} masks need as many classes and finite scores, not {list(classes.shape)} and "
            f"{list(scores.shape)}"
        )
    for index in set(classes.tolist()):
        if not 0 <= index < len(labels) or labels[index].kind is not ClassKind.THING:
            raise ResultError(f"the class {index} of an instance is no thing among the {len(labels)} labels")
    if semantic.shape != masks.frame_size or semantic.dtype.kind not in "iu":
        raise ResultError(
            f"the semantic map is {semantic.dtype} {list(semantic.shape)}; the masks belong to a "
            f"{list(masks.frame_size)} frame, and its values must be integers"
        )
    if semantic.size and not (semantic.min() >= 0 and semantic.max() < values):
        raise ResultError(f"the semantic map holds a value outside 0..{values - 1}")


def _channels(spec: PanopticFusion, outputs: Outputs) -> LabelMap:
    """The channel number [h, w] of every cell."""
    count = len(spec.semantic_classes)
    require(count > 0, spec.semantic, "has no meaning: the manifest's semantic_classes are empty")
    if spec.semantic in outputs and outputs[spec.semantic].dtype.kind == "f":
        logits = read_output(outputs, spec.semantic, (1, count, None, None), np.float32)[0]
        require(np.isfinite(logits).all(), spec.semantic, "holds a logit that is not a number")
        return _argmax(logits)
    channels = read_output(outputs, spec.semantic, (1, None, None), np.uint8, np.int32, np.int64)[0]
    within = channels.min() >= 0 and channels.max() < count
    require(within, spec.semantic, f"holds a channel outside 0..{count - 1}")
    return channels


def _argmax(logits: NDArray[np.float32]) -> LabelMap:
    """The first channel with the greatest value: `logits.argmax(axis=0)`, a channel at a time."""
    best = logits[0].copy()
    channels = np.zeros(best.shape, narrowest(len(logits)))
    for channel in range(1, len(logits)):
        np.copyto(channels, channel, where=logits[channel] > best)
        np.maximum(best, logits[channel], out=best)
    return channels
