"""DensePose: its deployed graph and decoding against the published steps, and what it learns."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.densepose.losses import losses
from edgewise.models.families.densepose.network import DensePose
from edgewise.models.families.densepose.surface_stage import SurfaceMaps
from edgewise.models.families.densepose.variants import LEGACY, MICRO, S1X
from edgewise.models.layers.roi_align import roi_align
from edgewise.models.layers.two_stage.proposal_stage import ProposalConfig
from edgewise.models.layers.two_stage.sampling import Regions, RoiTargets
from edgewise.models.measuring.torch_runner import TorchRunner
from edgewise.models.tasks.surface.targets import SurfaceTargets
from edgewise.runtime.contract.manifest import ClassLabel, Provenance
from edgewise.runtime.system.errors import ModelError
from edgewise.runtime.walk.walk import Walk

from .published_rcnn import Original, detections

pytestmark = pytest.mark.usefixtures("one_thread")

DETECTRON2 = Original(
    rounded=False, aligned=False, epsilon=(1e-8, 0.0), background_first=False, smallest=(1e-30, 0.0)
)
PERSON = ClassLabel(id=1, name="person")


def lively(module: DensePose) -> DensePose:
    """Weights by which some regions are sure to be people, boxes move, and parts differ."""
    torch.manual_seed(7)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            gain = 2.0 if "cls_score" in name else 0.4 if "deltas" in name else 1.4
            nn.init.normal_(parameter, std=gain / math.sqrt(parameter[0].numel()))
    nn.init.normal_(module.box_head.bbox_pred.weight, std=0.2)
    return module.eval()


@torch.no_grad()
def published_maps(module: DensePose, levels: tuple[torch.Tensor, ...], boxes: torch.Tensor) -> SurfaceMaps:
    """Of the decoder as its steps say, or of the level that fits a region; predictors doubled."""
    config, head = module.surface_head.config, module.surface_head
    bins, pooled = config.surface.bins, []
    if head.decoder is not None:
        p2, p3, p4, p5 = levels
        convolutions = head.decoder.levels

        def step(level: int, index: int, path: torch.Tensor) -> torch.Tensor:
            found = F.relu(convolutions[level][index](path))
            twice = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            return twice(found) if level else found

        total = step(0, 0, p2) + step(1, 0, p3) + step(2, 1, step(2, 0, p4))
        total = head.decoder.predictor(total + step(3, 2, step(3, 1, step(3, 0, p5))))
        pooled = [roi_align(total, box[None], output=bins, scale=0.25) for box in boxes]
    else:
        for box in boxes:
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            level = math.floor(4 + math.log2(math.sqrt(area) / config.canonical_size + 1e-8))
            index = min(max(level, 2), 5) - 2
            pooled.append(roi_align(levels[index], box[None], output=bins, scale=0.25 / 2**index))
    hidden = torch.cat(pooled)
    for convolution in head.convolutions:
        hidden = F.relu(convolution(hidden))
    doubled = (
        F.interpolate(predictor(hidden), scale_factor=2, mode="bilinear", align_corners=False)
        for predictor in (head.coarse, head.fine, head.u, head.v)
    )
    return SurfaceMaps(*doubled)


@pytest.mark.parametrize("published", [S1X, LEGACY], ids=["s1x", "legacy"])
def test_surfaces_are_the_originals(published):
    """Same people in the same order, boxes within 0.01 pixels, the same parts, U and V within 1e-4."""
    many = ProposalConfig(candidates=50, kept=30, rounds=60, smallest=1e-30)
    decoding = msgspec.structs.replace(MICRO.decoding, proposals=many, candidates=60, rounds=60, slots=40)
    config = msgspec.structs.replace(
        MICRO,
        conventions=published.conventions,
        decoding=decoding,
        surface=msgspec.structs.replace(
            published.surface, bins=published.surface.bins // 2, channels=8, convolutions=2
        ),
    )
    entry = registry.find("densepose-tiny").from_config(msgspec.to_builtins(config))
    module = lively(entry.build())
    height, width = config.input_size
    image = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    frame = np.ascontiguousarray(image.repeat(8, axis=0).repeat(8, axis=1))
    manifest = entry.manifest(Vocabulary((PERSON,)), Provenance(definition="registry:micro"))
    found = Walk(manifest, {"main": TorchRunner(entry.deploy(module), manifest.graphs["main"])})(frame)
    images = entry.normalise(torch.from_numpy(frame[None]))
    wanted = detections(DETECTRON2, config, module, images, [0])
    assert found.settled
    assert len(found) == len(wanted.scores) > 5
    np.testing.assert_allclose(found.scores, wanted.scores.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.boxes, wanted.boxes.numpy(), atol=0.01)
    # From here on the boxes are the found ones: a corner next to a whole number may fall on either side.
    boxes = torch.from_numpy(found.boxes)
    coarse, fine, u, v = published_maps(module, module(images).levels, boxes)
    shown = set()
    for index, (labels, uv) in enumerate(found.crops):
        x1, y1, x2, y2 = boxes[index].tolist()
        x, y, w, h = int(x1), int(y1), max(int(x2 - x1), 1), max(int(y2 - y1), 1)
        assert found.crops.places[index].tolist() == [x, y, w, h]
        large = [
            F.interpolate(maps[[index]], (h, w), mode="bilinear", align_corners=False)[0].detach()
            for maps in (coarse, fine, u, v)
        ]
        parts = large[1].argmax(dim=0) * (large[0].argmax(dim=0) > 0)
        best = large[1].topk(2, dim=0).values
        sure = ((best[0] - best[1]) > 1e-4).numpy()
        np.testing.assert_array_equal(labels[sure], parts.numpy()[sure])
        for plane, chart in zip(uv, large[2:], strict=True):
            chosen = chart.gather(0, parts[None])[0] * (parts > 0)
            np.testing.assert_allclose(plane[sure], chosen.numpy()[sure], atol=1e-4)
        shown |= set(np.unique(labels).tolist())
    assert len(shown) > 5


# ---------------------------------------------------------------- learning


class Given(nn.Module):
    """A stage that gives the same maps whatever it is asked."""

    def __init__(self, maps: SurfaceMaps) -> None:
        super().__init__()
        self.given = maps

    def maps(self, levels: object, regions: torch.Tensor, images: torch.Tensor) -> SurfaceMaps:
        assert len(regions) == len(self.given.fine)
        return self.given


def target(boxes: list[list[float]], points: list[list[list[float]]]) -> SurfaceTargets:
    masks = torch.zeros(len(boxes), 256, 256, dtype=torch.uint8)
    masks[:, 64:192, :128] = 2
    return SurfaceTargets(
        torch.tensor(boxes).reshape(-1, 4),
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.zeros(0, 4),
        tuple(torch.tensor(each).reshape(-1, 5) for each in points),
        masks,
    )


def test_the_terms_are_those_of_the_published_rules(monkeypatch):
    """Two regions of one person and one that overlaps it too little; every term in loops."""
    person = [10.0, 20.0, 42.0, 52.0]
    points = [[12.0, 22.0, 3, 0.25, 0.5], [30.5, 41.0, 7, 0.9, 0.1], [41.9, 51.9, 1, 0.0, 1.0]]
    rois = torch.tensor([person, [8.0, 21.0, 41.0, 50.0], [20.0, 30.0, 60.0, 60.0]])
    regions = Regions(
        (RoiTargets(rois, torch.zeros(3).long(), torch.zeros(3).long(), torch.zeros(3, 4), 3),),
        rois,
        torch.zeros(3).long(),
    )
    torch.manual_seed(1)
    sides = {"coarse": MICRO.surface.coarse, "fine": 11, "u": 11, "v": 11}
    maps = SurfaceMaps(**{name: torch.randn(2, channels, 8, 8) for name, channels in sides.items()})
    module = DensePose(MICRO)
    module.surface_head = Given(maps)
    monkeypatch.setattr(
        "edgewise.models.families.densepose.losses.detector_losses", lambda *asked: ({}, regions)
    )
    height, width = MICRO.input_size
    given = target([person], [points])
    terms = losses(MICRO, module, torch.zeros(1, 3, height, width), [given])
    large = [F.interpolate(each, scale_factor=2, mode="bilinear", align_corners=False) for each in maps]
    entropy, error, nodes = [], {2: [], 3: []}, []
    for index, (x1, y1, x2, y2) in enumerate(rois[:2].tolist()):
        for x, y, part, *uv in points:
            if not (x1 <= x < x2 and y1 <= y < y2):
                continue
            column, row = (x - x1) / (x2 - x1) * 16, (y - y1) / (y2 - y1) * 16

            def read(channels, column=column, row=row):
                x0, y0 = int(column), int(row)
                x1, y1, s, t = min(x0 + 1, 15), min(y0 + 1, 15), column - x0, row - y0
                upper = channels[:, y0, x0] * (1 - s) + channels[:, y0, x1] * s
                return upper * (1 - t) + (channels[:, y1, x0] * (1 - s) + channels[:, y1, x1] * s) * t

            entropy.append(-read(large[1][index]).log_softmax(0)[int(part)])
            for place, wanted in zip((2, 3), uv, strict=True):
                off = abs(float(read(large[place][index])[int(part)]) - wanted)
                error[place].append(0.5 * off**2 if off < 1 else off - 0.5)
        for row in range(16):
            for column in range(16):
                x = (x1 + column / 16 * (x2 - x1) - person[0]) / (person[2] - person[0]) * 256
                y = (y1 + row / 16 * (y2 - y1) - person[1]) / (person[3] - person[1]) * 256
                wanted = int(given.masks[0, int(y), int(x)]) if 0 <= x < 256 and 0 <= y < 256 else 0
                nodes.append(-large[0][index, :, row, column].log_softmax(0)[wanted])
    assert len(entropy) == 5
    surface = MICRO.surface
    wanted = {
        "part": float(torch.stack(entropy).mean()),
        "coarse": surface.coarse_weight * float(torch.stack(nodes).mean()),
        "u": surface.chart_weight * sum(error[2]),
        "v": surface.chart_weight * sum(error[3]),
    }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(wanted, rel=1e-4)


def test_people_with_parts_that_the_model_lacks_are_refused():
    module = DensePose(MICRO).train()
    height, width = MICRO.input_size
    given = target([[8.0, 8.0, 60.0, 60.0]], [[[20.0, 20.0, 11, 0.5, 0.5]]])
    with pytest.raises(ModelError, match="show part 11 and coarse part 2; the model has 10 parts"):
        losses(MICRO, module, torch.zeros(1, 3, height, width), [given])


def test_the_shipped_file_says_how_it_came_about() -> None:
    path = Path(edgewise.models.__file__).parent / "pretrained" / "densepose-tiny.safetensors"
    assert path.stat().st_size <= 2_000_000
    meta, _ = load_checkpoint(path)
    assert meta.training_command.startswith("edgewise train densepose-tiny --seed 1")
    assert meta.entry().config == registry.find("densepose-tiny").config
