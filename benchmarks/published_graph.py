"""The graph and images that the quantisation benchmarks measure: YOLACT R50 at 550x550, seeded weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

MODEL = "yolact-r50"
SIDE = 550


def write_graph(path: Path) -> Path:
    """Export the FP32 graph with all its decoding, as a bundle would hold it; minutes on a slow machine."""
    import onnx
    import torch

    from edgewise.exporter.way.export import canonical_graph
    from edgewise.models.data.vocabulary import Vocabulary
    from edgewise.models.registry import find
    from edgewise.runtime.contract.manifest import ClassLabel, Provenance

    torch.manual_seed(0)
    entry = find(MODEL)
    labels = tuple(ClassLabel(id=i + 1, name=f"class {i + 1}") for i in range(entry.config.class_count))
    graph = entry.manifest(Vocabulary(labels), Provenance(definition=f"registry:{MODEL}")).graphs["main"]
    sample = {"image": picture(0)[None]}
    onnx.save(canonical_graph(entry.deploy(entry.build()), graph, [sample]).fp32, str(path))
    return path


def write_images(folder: Path, count: int) -> Path:
    """`count` seeded pictures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        cv2.imwrite(str(folder / f"{seed:03d}.png"), picture(seed))
    return folder


def picture(seed: int) -> np.ndarray:
    """uint8 [550, 550, 3]: smooth colour with overlapping shapes and a little noise."""
    from edgewise.exporter.bundle.goldens import drawn_frame

    return drawn_frame((SIDE, SIDE), np.random.default_rng(seed))
