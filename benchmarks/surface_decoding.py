"""Decoding of surfaces beside the published way, for people of 400 x 300 pixels.

    python benchmarks/surface_decoding.py

The published way resizes all maps of a person to the box (`torch.nn.functional.interpolate`) and chooses
after that. Both run on one thread and are timed by the processor's clock; the maps are of 24 parts of about
equal size, with noise. Beside it stands the resizing of 52 channels alone; the published way resizes 77.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from edgewise.runtime.kinds.surface.charts import read_charts

T = TypeVar("T")
PEOPLE, SIDE, SIZE, PARTS = 10, 56, (400, 300), 24
Map = NDArray[np.float32]
Maps = tuple[Map, Map, Map, Map]


def person(seed: int) -> Maps:
    """Coarse, fine, U and V of a figure: the parts are nearest to one of 24 centres each."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    centres = rng.uniform(0.15, 0.85, (PARTS, 2, 1, 1))
    distances = (x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2
    inside = 1 - ((x - 0.5) / 0.33) ** 2 - ((y - 0.5) / 0.48) ** 2

    def noise(channels: int) -> np.ndarray:
        small = rng.normal(size=(channels, 7, 7)).astype(np.float32)
        return np.stack([cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in small])

    coarse = np.stack([-8 * inside, 8 * inside]) + noise(2)
    fine = np.concatenate([np.full((1, SIDE, SIDE), -4.0), -60 * distances]) + 0.8 * noise(PARTS + 1)
    u, v = (0.5 + 0.4 * noise(PARTS + 1) for _ in "uv")
    return coarse.astype(np.float32), fine.astype(np.float32), u.astype(np.float32), v.astype(np.float32)


def published(maps: Maps, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """All maps resized, then labels, then U and V part by part."""
    coarse, fine, u, v = (resized(torch.from_numpy(each).to(dtype)) for each in maps)
    labels = fine.argmax(dim=0) * (coarse.argmax(dim=0) > 0).long()
    uv = torch.zeros(2, *SIZE, dtype=dtype)
    for part in range(1, PARTS + 1):
        where = labels == part
        uv[0][where], uv[1][where] = u[part][where], v[part][where]
    return labels, uv


def resized(maps: torch.Tensor) -> torch.Tensor:
    """[c, s, s] doubled and at the size of the box."""
    doubled = F.interpolate(maps[None], scale_factor=2, mode="bilinear", align_corners=False)
    return F.interpolate(doubled, SIZE, mode="bilinear", align_corners=False)[0]


def milliseconds(work: Callable[[T], object], people: Sequence[T], rounds: int = 5) -> float:
    """The least processor time of some rounds over all people."""
    times: list[float] = []
    for _ in range(rounds):
        start = time.thread_time()
        for one in people:
            work(one)
        times.append(time.thread_time() - start)
    return 1000 * min(times)


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    people = [person(seed) for seed in range(PEOPLE)]
    labels_differ, largest = 0, 0.0
    for maps in people:
        labels, uv = published(maps, torch.float64)
        found, places = read_charts(*maps, SIZE, 2)
        labels_differ += int((labels.numpy() != found).sum())
        largest = max(largest, float(np.abs(uv.numpy() - places).max()))
    stacked = [torch.from_numpy(np.concatenate(maps)[:52]) for maps in people]
    ours = milliseconds(lambda maps: read_charts(*maps, SIZE, 2), people)
    theirs = milliseconds(published, people)
    resizing = milliseconds(resized, stacked)
    print(f"{PEOPLE} people of {SIZE[0]} x {SIZE[1]} pixels, one thread")
    print(f"published step         {theirs:8.1f} ms")
    print(f"resizing 52 channels   {resizing:8.1f} ms")
    print(f"read_charts            {ours:8.1f} ms: {ours / theirs:.3f} and {ours / resizing:.3f} of them")
    print(f"labels that differ from float64: {labels_differ}; largest difference of U or V: {largest:.1e}")


if __name__ == "__main__":
    main()
