"""CenterNet against its published steps, written out here."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.centernet.config import CenternetConfig
from edgewise.models.families.centernet.decoding import detect
from edgewise.models.families.centernet.losses import losses
from edgewise.models.families.centernet.network import Predictions
from edgewise.models.families.centernet.targets import targets_of
from edgewise.models.layers.peaks import draw_peak, peak_loss, peak_radius, peaks


def heads(seed: int, classes: int = 5, size: tuple[int, int] = (12, 16)) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda channels: torch.randn(2, channels, *size, generator=generator)  # noqa: E731
    return Predictions(3 * draw(classes), 4 * draw(2).abs(), torch.sigmoid(draw(2)))


def published_boxes(predictions: Predictions, image: int, count: int) -> np.ndarray:
    """Rows of x1, y1, x2, y2, score, class: cell by cell, the first of equal scores first."""
    score = torch.sigmoid(predictions.heat)[image].numpy()
    size, offset = predictions.size[image].numpy(), predictions.offset[image].numpy()
    classes, height, width = score.shape
    found: list[tuple[float, int, int, int]] = []
    for of_class in range(classes):
        for y in range(height):
            for x in range(width):
                around = score[of_class, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                if score[of_class, y, x] == around.max():
                    found.append((score[of_class, y, x], of_class, y, x))
    found.sort(key=lambda each: -each[0])  # stable: by class and cell
    rows = []
    for value, of_class, y, x in found[:count]:
        middle = np.array([x, y], np.float32) + offset[:, y, x]
        half = size[:, y, x] / 2
        rows.append([*(4 * (middle - half)), *(4 * (middle + half)), value, of_class])
    return np.array(rows, np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_those_of_the_published_steps(seed: int) -> None:
    predictions = heads(seed)
    found = detect(predictions, 30)
    for image in range(2):
        wanted = published_boxes(predictions, image, 30)
        np.testing.assert_allclose(found.boxes[image].numpy(), wanted[:, :4], atol=1e-5)
        np.testing.assert_allclose(found.scores[image].numpy(), wanted[:, 4], rtol=1e-6)
        assert (found.classes[image].numpy() == wanted[:, 5]).all()


def test_equal_neighbours_are_both_peaks_and_what_is_none_leaves_its_slot_empty() -> None:
    heat = torch.full((1, 2, 4, 6), -200.0)  # a probability of 0
    heat[0, 1, 2, 3] = heat[0, 1, 2, 4] = 1.0
    heat[0, 0, 0, 0] = 2.0
    found = peaks(heat, 5)
    assert sorted(found.cells[0, :3].tolist()) == [0, 15, 16]
    assert found.classes[0, :3].tolist() == [0, 1, 1]
    boxes = detect(Predictions(heat, torch.ones(1, 2, 4, 6), torch.ones(1, 2, 4, 6)), 5)
    assert (boxes.scores[0] > 0).tolist() == [True, True, True, False, False]
    assert not boxes.boxes[0, 3:].any()


@pytest.mark.parametrize(("height", "width", "radius"), [(64, 64, 17), (1, 1, 0), (10, 40, 4)])
def test_the_radius_is_the_one_that_weights_were_trained_with(height: int, width: int, radius: int) -> None:
    """The published roots, none of which is divided by twice its leading coefficient."""
    b, c = height + width, width * height * (1 - 0.7) / (1 + 0.7)
    first = (b + math.sqrt(b**2 - 4 * c)) / 2
    b, c = 2 * (height + width), (1 - 0.7) * width * height
    second = (b + math.sqrt(b**2 - 16 * c)) / 2
    a, b, c = 4 * 0.7, -2 * 0.7 * (height + width), (0.7 - 1) * width * height
    third = (b + math.sqrt(b**2 - 4 * a * c)) / 2
    assert peak_radius(height, width, 0.7, solved=False) == pytest.approx(min(first, second, third), abs=1e-9)
    assert int(peak_radius(height, width, 0.7, solved=False)) == radius


def test_a_peak_is_a_gaussian_that_the_radius_and_the_edge_cut_off() -> None:
    heat = torch.zeros(8, 9)
    draw_peak(heat, (1, 6), 3)
    sigma = 7 / 6
    for row in range(8):
        for column in range(9):
            inside = abs(row - 6) <= 3 and abs(column - 1) <= 3
            value = math.exp(-((row - 6) ** 2 + (column - 1) ** 2) / (2 * sigma**2)) if inside else 0.0
            assert heat[row, column].item() == pytest.approx(value, abs=1e-7)
    before = heat.clone()
    draw_peak(heat, (4, 4), 0)
    assert heat[4, 4] == 1.0
    heat[4, 4] = before[4, 4]
    assert torch.equal(heat, before)


def truth(boxes: list[list[float]], classes: list[int], size: tuple[int, int]) -> InstanceTargets:
    return InstanceTargets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        torch.zeros(len(boxes), *size, dtype=torch.bool),
        torch.zeros(0, 4),
    )


def test_targets_lie_at_the_cell_of_the_centre() -> None:
    image = truth([[8, 4, 30, 20], [40, 30, 64, 64]], [1, 0], (48, 64))
    wanted = targets_of(image, 3, (12, 16), 0.7)
    # Of the second box the far side lies behind the last cell's number, 15 and 11.
    assert wanted.cells.tolist() == [3 * 16 + 4, 9 * 16 + 12]
    torch.testing.assert_close(wanted.sizes, torch.tensor([[5.5, 4.0], [5.0, 3.5]]))
    torch.testing.assert_close(wanted.offsets, torch.tensor([[0.75, 0.0], [0.5, 0.25]]))
    assert wanted.heat[1, 3, 4] == wanted.heat[0, 9, 12] == 1.0
    assert int((wanted.heat == 1.0).sum()) == 2
    assert not wanted.heat[2].any()


def test_losses_are_the_published_ones() -> None:
    predictions = heads(3, classes=3)
    images = [truth([[8, 4, 30, 20], [40, 30, 64, 64]], [1, 0], (48, 64)), truth([], [], (48, 64))]
    found = losses(CenternetConfig(class_count=3), predictions, images)
    wanted = [targets_of(image, 3, (12, 16), 0.7) for image in images]
    heat, of_size, of_offset = 0.0, 0.0, 0.0
    for own, each in zip(range(2), wanted, strict=True):
        p = torch.sigmoid(predictions.heat[own]).double().clamp(1e-4, 1 - 1e-4)
        y = each.heat.double()
        right = torch.where(y == 1, (1 - p) ** 2 * p.log(), (1 - y) ** 4 * p**2 * (1 - p).log())
        heat -= float(right.sum()) / 2
        for cell, size, offset in zip(each.cells.tolist(), each.sizes, each.offsets, strict=True):
            row, column = divmod(cell, 16)
            of_size += float((predictions.size[own, :, row, column] - size).abs().sum())
            of_offset += float((predictions.offset[own, :, row, column] - offset).abs().sum())
    assert float(found["heat"]) == pytest.approx(heat, rel=1e-5)
    assert float(found["size"]) == pytest.approx(0.1 * of_size / (4 + 1e-4), rel=1e-5)
    assert float(found["offset"]) == pytest.approx(of_offset / (4 + 1e-4), rel=1e-5)


def test_without_things_only_what_was_found_wrongly_counts_and_undivided() -> None:
    logits = torch.zeros(1, 1, 3, 4)
    assert float(peak_loss(logits, torch.zeros_like(logits), 2.0, 4.0)) == pytest.approx(
        12 * 0.25 * math.log(2), rel=1e-6
    )


def test_basic_blocks_refuse_what_they_cannot_have() -> None:
    from edgewise.models.layers.resnet import ResNetConfig

    with pytest.raises(ValueError, match="basic blocks"):
        ResNetConfig(basic=True, stride_on_first=True)


def test_the_shipped_file_says_how_it_came_about() -> None:
    path = Path(edgewise.models.__file__).parent / "pretrained" / "centernet-tiny.safetensors"
    assert path.stat().st_size <= 2_500_000
    meta, _ = load_checkpoint(path)
    assert meta.training_command.startswith("edgewise train centernet-tiny --seed 1")
    assert meta.metrics["box_ap"] >= 0.50
    assert meta.entry().config == registry.find("centernet-tiny").config
