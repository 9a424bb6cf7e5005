"""Networks whose blocks split, keep and join their channels compute in the precision asked for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.zoo import GRAPH_ONLY
from edgewise.exporter.engines.build import BuildOptions, build_engine
from edgewise.exporter.precision.calibration_images import CalibrationRequest
from edgewise.exporter.way.export import ExportOptions, export_bundle
from edgewise.runtime.contract.manifest import (
    ClassLabel,
    DType,
    Graph,
    KeypointLayout,
    Manifest,
    Precision,
    Provenance,
    Target,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import Stretch

SIDE, CHANNELS, POINTS = 64, 32, 4


class SplitBlock(nn.Module):
    """Half of the channels goes on through two residual steps; everything on the way is joined."""

    def __init__(self) -> None:
        super().__init__()
        half = CHANNELS // 2
        self.enter = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.steps = nn.ModuleList(nn.Conv2d(half, half, 3, padding=1) for _ in range(2))
        self.leave = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        parts = list(nn.functional.silu(self.enter(features)).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + nn.functional.silu(step(parts[-1])))
        return nn.functional.silu(self.leave(torch.cat(parts, 1)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, 4, 1), nn.ReLU(), SplitBlock(), SplitBlock())
        self.head = nn.Conv2d(CHANNELS, POINTS, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(self.body(image.float().permute(0, 3, 1, 2) / 255)))


def draft() -> Manifest:
    image = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, SIDE, SIDE, 3))
    maps = TensorSpec(name="heatmaps", dtype=DType.FLOAT32, shape=(1, POINTS, SIDE // 4, SIDE // 4))
    return Manifest(
        writer="tests",
        name="split",
        classes=(ClassLabel(id=1, name="thing"),),
        keypoints=KeypointLayout(names=tuple(f"point {number}" for number in range(POINTS))),
        provenance=Provenance(definition="tests.Network"),
        graphs={"main": Graph(inputs=(image,), outputs=(maps,))},
        preprocess=Stretch(size=(SIDE, SIDE)),
        postprocess=HeatmapKeypoints(),
    )


@pytest.mark.slow
def test_every_convolution_computes_in_the_precision_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    torch.manual_seed(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(3)
    for number in range(6):
        coarse = generator.integers(0, 256, (4, 5, 3)).astype(np.uint8)
        cv2.imwrite(str(pictures / f"{number}.png"), cv2.resize(coarse, (SIDE, SIDE)))
    options = ExportOptions(
        targets=(Target.TENSORRT_RTX,),
        golden_count=2,
        budgets=GRAPH_ONLY,
        calibration=CalibrationRequest(images=pictures, count=4, held_out=2),
    )
    bundle = export_bundle({"main": Network()}, draft(), tmp_path / "split.bundle", options)
    realised = {}
    for precision in (Precision.FP16, Precision.INT8):
        build = BuildOptions(compute_capabilities=("sm86",), output=tmp_path / "engines")
        record = build_engine(bundle, Target.TENSORRT_RTX, precision, build)
        realised[precision] = record.realised.weighted
    assert realised[Precision.FP16] == {"fp16": 10}
    kept = {record.precision: record.kept for record in bundle.manifest.precisions}[Precision.INT8]
    assert realised[Precision.INT8]["int8"] == 10 - len(kept)
