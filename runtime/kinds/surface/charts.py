"""Maps of a region become the part of every pixel, and its place on the part's chart.

The published step resizes all maps of a person to its box: two or fifteen of the coarse segmentation, and for
every part and the background one of the fine segmentation, one of U and one of V. A pixel's part is then the
largest fine map where a coarse map other than the background's is the largest; its U and V are those of
the part. Resizing is bilinear with half-pixel centres.

The same numbers come from less. A pixel lies between four nodes of the maps, and is a mean of them with
weights that are not negative. Where one part is the largest at all four it is the largest between them,
whatever the weights. So only pixels between nodes of different parts are interpolated, for the parts that can
win there, and U and V only for each pixel's own part; of pixels that are background nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]
Index = NDArray[np.intp]

_BAND = 8192
"""Pixels that are worked on at once: what is computed of them stays in a core's cache."""


def read_charts(
    coarse: Maps, fine: Maps, u: Maps, v: Maps, size: tuple[int, int], upsampling: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Part, U and V of every pixel of a box.

    Args:
        coarse: float32 [c, s, s], logits; channel 0 is the background.
        fine: float32 [parts + 1, s, s], logits; channel 0 is the background.
        u, v: float32 [parts + 1, s, s].
        size: (height, width) of the box in pixels.
        upsampling: The maps are enlarged by this before they are resized; 1: not at all.

    Returns:
        uint8 [height, width], 0 the background, and float32 [2, height, width], 0 at the background.
    """
    height, width = size
    side = fine.shape[-1] * upsampling
    labels, uv = np.zeros(size, np.uint8), np.zeros((2, *size), np.float32)
    # Resizing is linear, so the difference of two maps is resized instead of both.
    above = [_enlarged(channel - coarse[0], side) for channel in coarse[1:]]
    foreground = np.zeros(size, np.bool_)
    for each in above:
        foreground |= cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) > 0
    choice = _Choice.of(np.stack([_enlarged(each, side) for each in fine]), np.max(above, axis=0) > 0)
    charts = _charts(u, v, choice.present, side)
    rows, columns = _Axis.of(height, side), _Axis.of(width, side)
    band = max(1, _BAND // width)
    for top in range(0, height, band):
        lines = slice(top, top + band)
        pixels = np.flatnonzero(foreground[lines])
        between = _Between.of(rows, columns, top, pixels, side)
        parts = choice.parts(between)
        labels[lines].ravel()[pixels] = parts
        shown = np.flatnonzero(parts)
        read = between.at(shown).read(charts, parts[shown])
        for plane, values in zip(uv[:, lines], (read[0::2], read[1::2]), strict=True):
            plane.ravel()[pixels[shown]] = values
    return labels, uv


@dataclass(frozen=True, eq=False)
class _Axis:
    """For each pixel of an axis the node before it, and how far it is from there to the next, 0..1."""

    before: Index
    share: NDArray[np.float32]

    @classmethod
    def of(cls, length: int, side: int) -> _Axis:
        position = np.clip((np.arange(length) + 0.5) * (side / length) - 0.5, 0, side - 1)
        before = np.minimum(position.astype(np.intp), max(side - 2, 0))
        return cls(before, (position - before).astype(np.float32))


@dataclass(frozen=True, eq=False)
class _Between:
    """The nodes that n pixels lie between, on maps of `side` x `side` nodes.

    Attributes:
        corner: intp [n], flat index of the upper left of the four.
        across, down: float32 [n], how far the pixel is from there to the next, 0..1.
        side: Nodes along an axis.
    """

    corner: Index
    across: NDArray[np.float32]
    down: NDArray[np.float32]
    side: int

    @classmethod
    def of(cls, rows: _Axis, columns: _Axis, top: int, pixels: Index, side: int) -> _Between:
        """Of pixels by their flat index, counted from the start of the row `top`."""
        row, column = np.divmod(pixels, len(columns.before))
        row += top
        corner = rows.before[row] * side + columns.before[column]
        return cls(corner, columns.share[column], rows.share[row], side)

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """What the four nodes lie behind the first, row by row; a single node is all four."""
        return _corners(self.side)

    def at(self, which: Index) -> _Between:
        return _Between(self.corner[which], self.across[which], self.down[which], self.side)

    def read(self, nodes: NDArray[np.generic], channels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Bilinear, each pixel from its own channel of [c, side, side].

        Elements are float32, or a pair of them as one complex64; float32 [n], or [2 n] of pairs.
        """
        values, start = nodes.ravel(), channels.astype(np.intp) * self.side**2 + self.corner
        a, b, c, d = (values.take(start + corner).view(np.float32) for corner in self.corners)
        times = values.itemsize // 4
        across, down = (np.repeat(share, times) if times > 1 else share for share in (self.across, self.down))
        upper = a + (b - a) * across
        return np.asarray(upper + (c + (d - c) * across - upper) * down, np.float32)


@dataclass(frozen=True, eq=False)
class _Choice:
    """Which channel is the largest between nodes.

    Attributes:
        nodes: float32 [c, side, side].
        winners: uint8 [side * side], the first of the largest channels at each node.
        row: intp [side * side], by the upper left node: the row of `rivals`, -1 where the winner is the
            largest throughout.
        rivals: uint8 [mixed, most], the channels that can be the largest, by rising number, the last one
            repeated.
    """

    nodes: Maps
    winners: NDArray[np.uint8]
    row: Index
    rivals: NDArray[np.uint8]

    @classmethod
    def of(cls, nodes: Maps, needed: NDArray[np.bool_]) -> _Choice:
        """Of channels [c, side, side]; only what touches one of the needed nodes will be asked for."""
        winners = _largest(nodes)
        side = nodes.shape[-1]
        corners = _corners(side)
        last = winners.size - corners[-1]
        mixed, asked = np.zeros(last, np.bool_), np.zeros(last, np.bool_)
        for corner in corners:
            mixed |= winners[:last] != winners[corner : corner + last]
            asked |= needed.ravel()[corner : corner + last]
        # Of the last node of a line the next is that of another line: nothing lies between them.
        mixed[side - 1 :: side] = False
        cells = np.flatnonzero(mixed & asked)
        row = np.full(winners.size, -1, np.intp)
        row[cells] = np.arange(len(cells))
        return cls(nodes, winners, row, _rivals(nodes.reshape(len(nodes), -1), winners, cells, corners))

    @property
    def present(self) -> Index:
        """The channels that can be the largest anywhere."""
        counts = np.bincount(self.winners, minlength=len(self.nodes))
        return np.flatnonzero(counts + np.bincount(self.rivals.ravel(), minlength=len(self.nodes)))

    def parts(self, between: _Between) -> NDArray[np.uint8]:
        """uint8 [n], the first of the largest channels at each pixel."""
        parts = self.winners[between.corner]
        row = self.row[between.corner]
        near = np.flatnonzero(row >= 0)
        if not len(near):
            return parts
        taken, rivals = between.at(near), self.rivals[row[near]]
        chosen = rivals[:, 0].copy()
        best = taken.read(self.nodes, chosen)
        for before, rival in zip(rivals.T, rivals.T[1:], strict=False):
            more = np.flatnonzero(rival != before)
            if not len(more):
                break
            value = taken.at(more).read(self.nodes, rival[more])
            better = value > best[more]
            more, value = more[better], value[better]
            best[more], chosen[more] = value, rival[more]
        parts[near] = chosen
        return parts


def _corners(side: int) -> tuple[int, int, int, int]:
    step = min(side - 1, 1)
    return 0, step, step * side, step * side + step


def _largest(nodes: Maps) -> NDArray[np.uint8]:
    best, winners = nodes[0].copy(), np.zeros(nodes.shape[1:], np.uint8)
    for channel, values in enumerate(nodes[1:], start=1):
        np.putmask(winners, values > best, channel)
        np.maximum(best, values, out=best)
    return winners.ravel()


def _rivals(
    values: Maps, winners: NDArray[np.uint8], cells: Index, corners: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Of each cell between four nodes of [c, side * side] the channels that can be the largest in it: those
    that neither the upper left node's winner nor the lower right one's exceeds at all four."""
    by_node, place = np.ascontiguousarray(values.T), np.arange(len(cells))
    four = [by_node[cells + corner] for corner in corners]
    reaches = np.ones((len(cells), len(values)), np.bool_)
    for corner in (corners[0], corners[-1]):
        winner = winners[cells + corner]
        reaches &= np.any([each >= each[place, winner][:, None] for each in four], axis=0)
    channel = np.nonzero(reaches)[1].astype(np.uint8)
    counts = reaches.sum(axis=1)
    ends = np.cumsum(counts)
    most = np.arange(counts.max(initial=1))
    return channel[np.minimum((ends - counts)[:, None] + most, ends[:, None] - 1)]


def _charts(u: Maps, v: Maps, present: Index, side: int) -> NDArray[np.complex64]:
    """[channels, side, side]: U and V as a pair, of the present channels; the others hold nothing."""
    nodes = np.empty((len(u), side, side), np.complex64)
    for part in present:
        pair = _enlarged(np.asarray(cv2.merge((u[part], v[part])), np.float32), side)
        nodes[part] = pair.view(np.complex64)[..., 0]
    return nodes


def _enlarged(nodes: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """[s, s] or [s, s, 2] at `side` instead of s."""
    if len(nodes) == side:
        return nodes
    return np.asarray(cv2.resize(nodes, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)
