"""Export any `torch.nn.Module` with a manifest of your own: no registry, no checkpoint format.

Run it:

    python examples/export_your_module.py spots.bundle
    edgewise run spots.bundle picture.png

The module here finds spots of saturated colour. Its weights are written down instead of trained, so the
example needs no data; yours come from your training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgewise.exporter.way.export import export_bundle
from edgewise.runtime.contract.manifest import (
    ClassLabel,
    DType,
    Graph,
    Manifest,
    Provenance,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import PrototypeInstances
from edgewise.runtime.contract.preprocessing import Stretch

SIZE = 128
"""Height and width of the network input in pixels."""
STRIDE = 4
GRID = SIZE // STRIDE
SLOTS = 8
"""Detections that the graph gives; empty ones have score 0."""
COLOURS = ("blue", "green", "red")


class SpotFinder(nn.Module):
    """A deploy module: uint8 [1, H, W, 3] BGR in; decoded tensors of fixed shape, then probes, out.

    Three rules make a module exportable:

    1. The input is the camera's bytes. Cast first; mean and scale are part of the module.
    2. Shapes never depend on the data: take the K best (`topk`) and mark empty slots with score 0.
    3. Return a tuple of the manifest's outputs and then its probes, in the manifest's order.
    """

    def __init__(self) -> None:
        super().__init__()
        colour = nn.Conv2d(3, 3, kernel_size=1)
        blur = nn.Conv2d(3, 3, kernel_size=32, stride=STRIDE, padding=14, groups=3, bias=False)
        with torch.no_grad():
            # How much one channel stands out from the mean of the other two.
            colour.weight.copy_((1.5 * torch.eye(3) - 0.5)[:, :, None, None])
            assert colour.bias is not None
            colour.bias.fill_(-0.25)
            # A pyramid: a spot as large as the window or smaller has one peak.
            slope = 1.0 - (torch.arange(32) - 15.5).abs() / 16.0
            blur.weight.copy_((slope[:, None] * slope / slope.sum() ** 2).expand(3, 1, 32, 32))
        self.network = nn.Sequential(colour, nn.ReLU(), blur)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        pixels = image.float().permute(0, 3, 1, 2) / 255.0
        heat = self.network(pixels)  # [1, 3, GRID, GRID]

        is_peak = heat == functional.max_pool2d(heat, kernel_size=9, stride=1, padding=4)
        peaks = torch.where(is_peak & (heat > 0.05), heat, 0.0).flatten(1)
        scores, index = peaks.topk(SLOTS, dim=1)
        classes = (index // (GRID * GRID)).to(torch.int32)
        cell = index % (GRID * GRID)
        centre = torch.stack((cell % GRID, cell // GRID), dim=2).float() * STRIDE + STRIDE / 2
        boxes = torch.cat((centre - 16.0, centre + 16.0), dim=2)

        maps = torch.index_select(heat[0], 0, classes[0].long())[None]  # [1, SLOTS, GRID, GRID]
        near = self._inside(boxes[..., 0], boxes[..., 2])[:, :, None, :]
        near = near & self._inside(boxes[..., 1], boxes[..., 3])[:, :, :, None]
        masks = torch.where(near, torch.sigmoid(40.0 * (maps - 0.15)), 0.0)
        return boxes, scores.clamp(max=1.0), classes, masks, heat

    @staticmethod
    def _inside(low: Tensor, high: Tensor) -> Tensor:
        cells = (torch.arange(GRID) + 0.5) * STRIDE
        return (cells >= low[..., None]) & (cells < high[..., None])


def draft_manifest() -> Manifest:
    """Everything that the device must know; export adds files, goldens and precisions."""
    graph = Graph(
        inputs=(TensorSpec(name="image", dtype=DType.UINT8, shape=(1, SIZE, SIZE, 3), meaning="BGR frame"),),
        outputs=(
            TensorSpec(name="boxes", dtype=DType.FLOAT32, shape=(1, SLOTS, 4), meaning="xyxy, input pixels"),
            TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, SLOTS), value_range=(0.0, 1.0)),
            TensorSpec(name="classes", dtype=DType.INT32, shape=(1, SLOTS)),
            TensorSpec(
                name="masks", dtype=DType.FLOAT32, shape=(1, SLOTS, GRID, GRID), value_range=(0.0, 1.0)
            ),
        ),
        probes=(
            TensorSpec(
                name="heat", dtype=DType.FLOAT32, shape=(1, 3, GRID, GRID), meaning="blurred colour excess"
            ),
        ),
    )
    return Manifest(
        writer="export_your_module.py",
        name="colour-spots",
        classes=tuple(ClassLabel(id=number + 1, name=name) for number, name in enumerate(COLOURS)),
        licence="Apache-2.0",
        provenance=Provenance(definition="export_your_module.SpotFinder"),
        graphs={"main": graph},
        preprocess=Stretch(size=(SIZE, SIZE)),
        postprocess=PrototypeInstances(score_threshold=0.05, display_threshold=0.1),
    )


def main(destination: str) -> None:
    bundle = export_bundle({"main": SpotFinder()}, draft_manifest(), Path(destination))
    print(f"wrote {bundle.path}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/export_your_module.py BUNDLE")
    main(sys.argv[1])
