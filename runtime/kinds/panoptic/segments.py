"""The argmax of a panoptic head becomes segments of the frame (UPSNet); docs/panoptic-fusion.md is the rule.

All counting refers to frame pixels after nearest resampling, and is done before it: every map cell counts as
often as the frame shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel, Manifest
from edgewise.runtime.contract.postprocessing import PanopticSegments
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.panoptic.result import MOST_SEGMENTS, Panoptic
from edgewise.runtime.pixels.label_maps import LabelMap, label_runs, narrowest, nearest_grid, rename_labels
from edgewise.runtime.pixels.masks import BoolArray, IntArray
from edgewise.runtime.results.outputs import (
    Outputs,
    only_look,
    read_output,
    read_scores,
    read_settled,
    require,
)


def decode_segments(
    spec: PanopticSegments, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> Panoptic:
    """Vote, merge, apply the stuff area limit, and resample to the frame.

    Args:
        spec: Output names, thresholds and limits.
        manifest: S of its classes are stuff.
        looks: The one look at the frame; any scale and offset, but not turned.
        outputs: Of that look: scores float32 [1, K]; classes [1, K], index into its classes; segments [1, h,
            w]: 0..S - 1 is the s-th stuff class, S + i slot i, S + K unknown; semantic [1, h, w], index into
            its classes; both maps cover the whole network input; settled [1] where `spec` names it. Integers
            are int32 or int64, those of maps uint8 too.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or out of range.
    """
    geometry, only = only_look(looks, outputs)
    labels = manifest.classes
    head = _read(spec, labels, only)
    grid = nearest_grid(geometry, (head.segments.shape[0], head.segments.shape[1]))
    codes = grid.seen(head.segments)
    count = len(head.stuff) + len(head.scores) + 1
    votes = _votes(codes, grid.seen(head.semantic), grid.weights(), (count, len(labels)))
    owners = _owners(spec, head, votes)
    areas = votes.sum(axis=1)

    stuff_areas = np.zeros(len(labels), np.int64)
    np.add.at(stuff_areas, owners[owners >= 0], areas[owners >= 0])
    shown = np.flatnonzero((stuff_areas >= spec.stuff_area_limit) & (stuff_areas > 0))
    instances = np.flatnonzero(owners == _INSTANCE)
    slots = instances - len(head.stuff)
    order = np.argsort(-head.scores[slots], kind="stable")
    instances, slots = instances[order], slots[order]

    total = len(instances) + len(shown)
    names = np.zeros(count, np.uint16)
    names[instances] = np.arange(1, len(instances) + 1)
    for number, category in enumerate(shown.tolist(), len(instances) + 1):
        names[owners == category] = number
    seen = rename_labels(codes.astype(narrowest(count)), names)
    return Panoptic(
        segments=grid.spread(seen),
        boxes=grid.boxes(label_runs(seen).boxes(total + 1)[1:]).astype(np.float32),
        scores=np.concatenate([head.scores[slots], np.ones(len(shown), np.float32)]),
        classes=np.concatenate([head.classes[slots], shown]).astype(np.int32),
        areas=np.concatenate([areas[instances], stuff_areas[shown]]),
        labels=labels,
        frame_size=geometry.source_size,
        display_threshold=spec.display_threshold,
        settled=head.settled,
    )


_INSTANCE, _VOID = -1, -2
"""Owners of codes that are no stuff class."""


@dataclass(frozen=True, eq=False)
class _Head:
    """Checked outputs; `stuff` holds the indices of stuff classes, `things` says which classes are things."""

    scores: np.ndarray[tuple[int], np.dtype[np.float32]]
    classes: IntArray
    segments: LabelMap
    semantic: LabelMap
    stuff: IntArray
    things: BoolArray
    settled: bool


def _read(spec: PanopticSegments, labels: tuple[ClassLabel, ...], outputs: Outputs) -> _Head:
    integers = (np.int32, np.int64)
    scores = read_scores(outputs, spec.scores)
    slots = len(scores)
    classes = read_output(outputs, spec.classes, (1, slots), *integers)[0].astype(np.int64)
    segments = read_output(outputs, spec.segments, (1, None, None), np.uint8, *integers)[0]
    semantic = read_output(outputs, spec.semantic, (1, *segments.shape), np.uint8, *integers)[0]
    settled = read_settled(outputs, spec.settled)
    things = np.array([label.kind is ClassKind.THING for label in labels], np.bool_)
    stuff = np.flatnonzero(~things)
    last = len(stuff) + slots
    require(last <= MOST_SEGMENTS, spec.scores, f"has {slots} slots, more than a map of segments has ids")
    within = segments.min() >= 0 and segments.max() <= last
    require(within, spec.segments, f"holds a code outside 0..{last}")
    within = semantic.min() >= 0 and semantic.max() < len(labels)
    require(within, spec.semantic, f"holds an index outside the manifest's {len(labels)} classes")
    taken = classes[scores > spec.score_threshold]
    known = (taken >= 0) & (taken < len(labels))
    require(known.all(), spec.classes, f"holds an index outside the manifest's {len(labels)} classes")
    require(things[taken].all(), spec.classes, "holds a stuff class; slots hold things")
    return _Head(scores, classes, segments, semantic, stuff, things, settled)


def _votes(codes: LabelMap, semantic: LabelMap, weights: IntArray, shape: tuple[int, int]) -> IntArray:
    """int64 [codes, classes], frame pixels of each code on which the semantic head says each class."""
    pairs = codes.astype(np.int64) * shape[1] + semantic
    counted = np.bincount(pairs.ravel(), weights.ravel(), minlength=shape[0] * shape[1])
    # Sums of whole numbers below 2**53 are exact in float64.
    return counted.astype(np.int64).reshape(shape)


def _owners(spec: PanopticSegments, head: _Head, votes: IntArray) -> IntArray:
    """Which stuff class each code's pixels go to, or that they are an instance's, or void."""
    first = len(head.stuff)
    owners = np.full(len(votes), _VOID, np.int64)
    owners[:first] = head.stuff
    of_slots = votes[first:-1]
    areas = of_slots.sum(axis=1)
    used = np.flatnonzero((head.scores > spec.score_threshold) & (areas > 0))
    majority = of_slots[used].argmax(axis=1)
    share = of_slots[used].max(axis=1) / areas[used]
    merged = ~head.things[majority] & (share >= spec.agreement)
    owners[first + used] = np.where(merged, majority, _INSTANCE)
    return owners
