"""COCO's run-length encoding of masks, straight from crops.

Runs are counted down the columns of the whole frame, zeros first. The compressed form writes each count
(from the fourth on as the difference to the count two before) in groups of five bits, lowest first, as
characters from code 48; a group that is followed by another carries bit 32. The strings equal pycocotools'
byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.pixels.masks import IntArray, MaskCrops
from edgewise.runtime.system.errors import ResultError

_GROUPS = 7
"""Most five-bit groups of one count; 35 bits are more than any frame has pixels."""
_LONGEST = 1 << 28
"""Most characters of a string: as many counts of 35 bits, of either sign, cannot overflow an int64 sum."""
_BATCH = 1 << 18
"""Pixels that are searched for runs at a time, so that they stay in the processor's cache."""


def encode_rle(masks: MaskCrops) -> list[str]:
    """The compressed `counts` string of each mask; its `size` is `masks.frame_size`."""
    counts, lengths = _counts(masks)
    return _compress(counts, lengths)


def decode_rle(counts: str, frame_size: Size) -> NDArray[np.bool_]:
    """bool [H, W] from a compressed `counts` string.

    Raises:
        ResultError: The string is not COCO RLE, or its runs do not fill the frame.
    """
    return fill_runs(runs_of(counts, frame_size), frame_size)


def runs_of(counts: str | Sequence[int], frame_size: Size) -> list[int]:
    """The run lengths, zeros first, of a mask of the frame: from COCO's compressed text, or themselves.

    Nothing may be allocated or copied by runs that were not checked here: they come from files, and their sum
    wraps in 64 bits.

    Raises:
        ResultError: The text is not COCO RLE; a run is negative or longer than the frame; there are more runs
            than pixels; or they do not fill the frame.
    """
    height, width = frame_size
    pixels = height * width
    runs = rle_counts(counts).tolist() if isinstance(counts, str) else list(counts)
    # The first run, of zeros, may be empty.
    if len(runs) > pixels + 1:
        raise ResultError(f"{len(runs)} runs are more than the {height} x {width} frame has pixels")
    if odd := [run for run in runs if not 0 <= run <= pixels]:
        raise ResultError(f"a run of {odd[0]} pixels cannot be in a {height} x {width} frame")
    if sum(runs) != pixels:
        raise ResultError(f"the runs cover {sum(runs)} of {pixels} pixels of the {height} x {width} frame")
    return runs


def fill_runs(runs: Sequence[int], frame_size: Size) -> NDArray[np.bool_]:
    """bool [H, W] from what `runs_of` gave for the same frame."""
    height, width = frame_size
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def rle_counts(counts: str) -> IntArray:
    """The run lengths, zeros first, of a compressed string, whatever frame they are of.

    Raises:
        ResultError: The string is not COCO RLE.
    """
    if len(counts) > _LONGEST:
        raise ResultError(f"an RLE string of {len(counts)} characters is longer than any frame's")
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise ResultError("an RLE string holds characters that COCO's code does not use") from None
    if codes.size == 0:
        return np.zeros(0, np.int64)
    last = codes & 32 == 0
    if ((codes < 0) | (codes > 63)).any() or not last[-1]:
        raise ResultError("an RLE string holds characters that COCO's code does not use, or is cut off")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    group = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if int(group.max()) >= _GROUPS:
        raise ResultError("an RLE string holds a count of more than 35 bits")
    values = np.add.reduceat((codes & 31) << (5 * group), starts)
    negative = codes[ends] & 16 != 0
    values -= np.where(negative, 1 << (5 * (group[ends] + 1)), 0)
    # Counts from the fourth on are differences to the count two before: two interleaved running sums.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _counts(masks: MaskCrops) -> tuple[IntArray, IntArray]:
    """Run lengths of all masks in one array, and how many belong to each mask."""
    height, width = masks.frame_size
    starts, ends, owner = _runs(masks)
    total = height * width
    # Edges of the runs in order, closed by the end of the frame, which a last run may already have reached.
    runs_of = np.bincount(owner, minlength=len(masks))
    last = np.cumsum(runs_of) - 1
    reaches_end = (runs_of > 0) & (ends[np.maximum(last, 0)] == total) if len(ends) else runs_of > 0
    lengths = 2 * runs_of + ~reaches_end
    first = np.cumsum(lengths) - lengths
    edges = np.full(int(lengths.sum()), total, np.int64)
    rank = np.arange(len(starts)) - np.repeat(np.cumsum(runs_of) - runs_of, runs_of)
    at = first[owner] + 2 * rank
    edges[at] = starts
    edges[at + 1] = ends
    counts = np.diff(edges, prepend=0)
    counts[first] = edges[first]
    return counts, lengths


def _runs(masks: MaskCrops) -> tuple[IntArray, IntArray, IntArray]:
    """First pixel, one past the last pixel (in the frame's column order) and mask of every run of ones."""
    batch = np.cumsum(masks.places[:, 2] * masks.places[:, 3]) // _BATCH
    bounds = [0, *(np.flatnonzero(np.diff(batch)) + 1).tolist(), len(masks)]
    found = [_runs_between(masks, first, last) for first, last in pairwise(bounds)]
    start, end, owner = (np.concatenate(part) for part in zip(*found, strict=True))
    return start, end, owner


def _runs_between(masks: MaskCrops, first: int, last: int) -> tuple[IntArray, IntArray, IntArray]:
    """`_runs` of the masks first..last - 1."""
    offsets = masks.offsets[first : last + 1]
    data = masks.data[offsets[0] : offsets[-1]]
    if data.size == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    offsets = offsets - offsets[0]
    x, y, w, h = masks.places[first:last].T
    tall = np.repeat(h, w)
    tops = (np.cumsum(tall) - tall)[tall > 0]
    bottoms = np.append(tops[1:], len(data)) - 1
    # A run of a column begins where the pixel before is not set, or at the top.
    beside = np.zeros_like(data)
    beside[1:] = data[:-1]
    beside[tops] = False
    begin = np.flatnonzero(data > beside)
    beside[:-1] = data[1:]
    beside[bottoms] = False
    length = np.flatnonzero(data > beside) - begin + 1
    owner = np.searchsorted(offsets, begin, side="right") - 1
    column, row = np.divmod(begin - offsets[owner], h[owner])
    start = (x[owner] + column) * masks.frame_size[0] + y[owner] + row
    end = start + length
    # A run that ends at the frame's bottom goes on at the top of the next column.
    joined = np.flatnonzero((start[1:] == end[:-1]) & (owner[1:] == owner[:-1]))
    if joined.size:
        start, end = np.delete(start, joined + 1), np.delete(end, joined)
        owner = np.delete(owner, joined)
    return start, end, owner + first


def _compress(counts: IntArray, lengths: IntArray) -> list[str]:
    if counts.size == 0:
        return []
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    rank = np.arange(len(counts)) - first
    values = counts.copy()
    values[2:] -= np.where(rank[2:] > 2, counts[:-2], 0)
    # A value takes the fewest groups whose sign bit is right.
    magnitude = np.where(values < 0, ~values, values)
    needed = np.ones(len(values), np.int64)
    most = 1
    while (over := magnitude >> (5 * most - 1) > 0).any():
        needed += over
        most += 1
    group = np.arange(most)
    codes = (values[:, None] >> (5 * group)) & 31
    codes |= np.where(group < needed[:, None] - 1, 32, 0)
    stream = (codes + 48).astype(np.uint8)[group < needed[:, None]].tobytes().decode("ascii")
    ends = np.cumsum(needed)[np.cumsum(lengths) - 1].tolist()
    return [stream[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
