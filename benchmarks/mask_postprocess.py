"""100 instance masks into a 3840x2160 frame: the runtime's crops and RLE beside full-frame ways.

    python benchmarks/mask_postprocess.py

All ways run in this one process on the same masks, with the same number of threads. The full-frame ways work
on one instance at a time, because 100 float frames need 3.3 GB; their times are sums over the instances. For
the 28x28 masks the full-frame ways are torchvision's paste (boxes rounded to integers, mask padded by one
cell) and a grid-sample over the frame, both written here; for the 138x138 masks OpenCV's and torch's bilinear
resize. The crops are compared with the full-frame result of torch in float32, which decides the few pixels
within rounding of the threshold by its own rounding; the RLE strings with pycocotools' of the same masks as
full frames. Beside the time of the clock stands the processor time of the calling thread, which other
programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco

from edgewise.runtime.pixels.geometry import scaling
from edgewise.runtime.pixels.masks import MaskCrops
from edgewise.runtime.pixels.paste import paste_box_masks, paste_prototype_masks
from edgewise.runtime.pixels.rle import encode_rle

HEIGHT, WIDTH = 2160, 3840
INPUT = 550
THRESHOLD = 0.5
TARGETS = {"crops": 5.0, "rle": 15.0}


def boxes_about(side: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count, 4] inside the frame, sides within a fifth of `side`."""
    sides = rng.uniform(0.8 * side, 1.2 * side, (count, 2))
    corners = rng.uniform(0, [WIDTH - 1.2 * side, HEIGHT - 1.2 * side], (count, 2))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def blobs(shape: tuple[int, int], boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [n, *shape]: wobbly ellipses that fill the boxes (xyxy in cells), zero outside."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    masks = np.zeros((len(boxes), *shape), np.float32)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        u, v = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
        phase = rng.uniform(0, 2 * np.pi)
        rim = 0.9 + 0.1 * np.sin(3 * np.arctan2(v, u) + phase)
        logits = np.clip(9 * (rim - np.hypot(u, v)) + rng.normal(0, 0.3, shape), -30, 30)
        inside = (x > x1 - 1) & (x < x2 + 1) & (y > y1 - 1) & (y < y2 + 1)
        mask[...] = inside / (1 + np.exp(-logits))
    return masks


def torchvision_paste(masks: np.ndarray, boxes: np.ndarray) -> Iterable[np.ndarray]:
    """One bool frame an instance: torchvision's rule, box corners truncated, sides counted inclusively."""
    padded = F.pad(torch.from_numpy(masks)[:, None], (1, 1, 1, 1))
    scale = padded.shape[-1] / masks.shape[-1]
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    whole = np.concatenate([centre - half, centre + half], axis=1).astype(np.int64).tolist()
    for mask, (x1, y1, x2, y2) in zip(padded, whole, strict=True):
        size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        patch = F.interpolate(mask[None], size=size, mode="bilinear", align_corners=False)[0, 0]
        frame = torch.zeros((HEIGHT, WIDTH))
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, WIDTH), min(y2 + 1, HEIGHT)
        frame[top:bottom, left:right] = patch[top - y1 : bottom - y1, left - x1 : right - x1]
        yield (frame > THRESHOLD).numpy()


def grid_sample_paste(masks: np.ndarray, boxes: np.ndarray) -> Iterable[np.ndarray]:
    """One bool frame an instance: the aligned rule, sampled at every pixel of the frame."""
    x, y = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT) + 0.5
    for mask, (x1, y1, x2, y2) in zip(torch.from_numpy(masks), boxes.tolist(), strict=True):
        across = ((x - x1) / (x2 - x1) * 2 - 1).expand(HEIGHT, WIDTH)
        down = ((y - y1) / (y2 - y1) * 2 - 1)[:, None].expand(HEIGHT, WIDTH)
        grid = torch.stack([across, down], dim=2)[None]
        yield (F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0] > THRESHOLD).numpy()


def opencv_upsampling(masks: np.ndarray, _: np.ndarray) -> Iterable[np.ndarray]:
    for mask in masks:
        yield cv2.resize(mask, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR) > THRESHOLD


def torch_upsampling(masks: np.ndarray, _: np.ndarray) -> Iterable[np.ndarray]:
    for mask in torch.from_numpy(masks)[:, None, None]:
        frame = F.interpolate(mask, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0, 0]
        yield (frame > THRESHOLD).numpy()


def seconds_of(frames: Iterable[np.ndarray]) -> float:
    start = time.perf_counter()
    for _ in frames:
        pass
    return time.perf_counter() - start


def pycocotools_encoding(crops: MaskCrops) -> tuple[float, list[str]]:
    """Seconds for encoding full uint8 frames that are already in column order, and the strings."""
    taken, strings = 0.0, []
    for index in range(len(crops)):
        frame = np.asfortranarray(crops.select(np.array([index])).dense()[0], np.uint8)
        start = time.perf_counter()
        counts = coco.encode(frame)["counts"]
        taken += time.perf_counter() - start
        assert isinstance(counts, bytes)
        strings.append(counts.decode())
    return taken, strings


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call after warm-up."""

    median: float
    least: float
    processor: float

    def __str__(self) -> str:
        return (
            f"median {self.median:8.2f} ms   least {self.least:8.2f} ms   processor {self.processor:8.2f} ms"
        )


def repeated(function: Callable[[], object], repeats: int) -> Times:
    for _ in range(3):
        function()
    clock, processor = [], []
    for _ in range(repeats):
        start, worked = time.perf_counter(), time.thread_time()
        function()
        processor.append((time.thread_time() - worked) * 1e3)
        clock.append((time.perf_counter() - start) * 1e3)
    return Times(statistics.median(clock), min(clock), statistics.median(processor))


def report(
    title: str,
    paste: Callable[[], MaskCrops],
    slow_ways: dict[str, Iterable[np.ndarray]],
    float32_frames: Iterable[np.ndarray],
    repeats: int,
) -> None:
    crops = paste()
    crop_times, rle_times = repeated(paste, repeats), repeated(lambda: encode_rle(crops), repeats)
    pixels = np.prod(crops.places[:, 2:], axis=1).mean()
    print(f"\n{title}: {len(crops)} instances, crops of {pixels:.0f} pixels")
    print(f"  edgewise, boolean crops        {crop_times}")
    print(f"  edgewise, RLE from the crops   {rle_times}")
    for name, frames in slow_ways.items():
        taken = seconds_of(frames) * 1e3
        print(f"  {name:30} {taken:15.2f} ms   ratio 1/{taken / crop_times.median:.0f}")
    taken, strings = pycocotools_encoding(crops)
    ratio = taken * 1e3 / rle_times.median
    print(f"  {'pycocotools on full frames':30} {taken * 1e3:15.2f} ms   ratio 1/{ratio:.0f}")
    different = sum(
        int((frame != crops.select(np.array([index])).dense()[0]).sum())
        for index, frame in enumerate(float32_frames)
    )
    print(f"  pixels unlike torch's float32 full frames: {different} of {crops.areas().sum()} set")
    print(f"  RLE strings equal to pycocotools':         {encode_rle(crops) == strings}")
    for name, times in (("crops", crop_times), ("rle", rle_times)):
        verdict = "met" if times.median <= TARGETS[name] else "MISSED"
        print(f"  target {name} <= {TARGETS[name]:g} ms: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--instances", type=int, default=100)
    options = parser.parse_args()
    threads = 2
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    rng = np.random.default_rng(0)
    boxes = boxes_about(180, options.instances, rng)
    print(
        f"{options.instances} instances into {WIDTH}x{HEIGHT}, {threads} threads, torch {torch.__version__}"
    )

    masks = blobs((28, 28), np.tile([0.0, 0.0, 28.0, 28.0], (len(boxes), 1)), rng)
    report(
        "28x28 masks in their boxes",
        lambda: paste_box_masks(masks, boxes, (HEIGHT, WIDTH), THRESHOLD),
        {
            "torchvision's paste": torchvision_paste(masks, boxes),
            "grid-sample over the frame": grid_sample_paste(masks, boxes),
        },
        grid_sample_paste(masks, boxes),
        options.repeats,
    )

    cells = np.array([138 / WIDTH, 138 / HEIGHT] * 2)
    prototypes = blobs((138, 138), boxes * cells, rng)
    geometry = scaling((HEIGHT, WIDTH), (INPUT, INPUT), (INPUT / WIDTH, INPUT / HEIGHT), (0.0, 0.0))
    report(
        "138x138 masks of the whole input",
        lambda: paste_prototype_masks(prototypes, geometry, THRESHOLD),
        {
            "cv2.resize to the full frame": opencv_upsampling(prototypes, boxes),
            "torch bilinear to the full frame": torch_upsampling(prototypes, boxes),
        },
        torch_upsampling(prototypes, boxes),
        options.repeats,
    )


if __name__ == "__main__":
    main()
