"""CornerNet against its published steps, written out here."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.cornernet.config import (
    MICRO,
    TRIPLETS_MICRO,
    CornernetConfig,
    DecodingConfig,
)
from edgewise.models.families.cornernet.decoding import detect, detect_centres
from edgewise.models.families.cornernet.losses import embedding_losses, losses
from edgewise.models.families.cornernet.network import Centres, Corners, Predictions
from edgewise.models.families.cornernet.pooling import CascadeCornerPooling, CentrePooling
from edgewise.models.families.cornernet.targets import targets_of
from edgewise.models.layers.directional_max import max_from, max_until
from edgewise.models.layers.peaks import peak_loss, peak_radius

CONFIG = msgspec.structs.replace(MICRO, decoding=DecodingConfig(corners=20, slots=60))


@given(st.integers(1, 200), st.sampled_from([1, 2]), st.integers(0, 100))
@settings(deadline=None, max_examples=60)
def test_running_maxima_are_those_of_a_scan(length: int, axis: int, seed: int) -> None:
    shape = (2, length, 3) if axis == 1 else (2, 3, length)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(max_until(x, axis), x.cummax(dim=axis).values)
    assert torch.equal(max_from(x, axis), x.flip(axis).cummax(dim=axis).values.flip(axis))


def heads(seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = CONFIG.map_size

    def draw(channels: int) -> Tensor:
        return torch.randn(1, channels, rows, columns, generator=generator)

    return Predictions(*(Corners(3 * draw(3), draw(1), torch.sigmoid(draw(2))) for _ in range(2)))


def both(first: Predictions, second: Predictions) -> Predictions:
    """Two images in one batch."""
    corners = zip(first.corners, second.corners, strict=True)
    return Predictions(*(Corners(*map(torch.cat, zip(*each, strict=True))) for each in corners))


def best_corners(corners: Corners, count: int) -> list[tuple[float, int, float, np.ndarray]]:
    """Score, class, embedding and place in cells of the best peaks."""
    score = torch.sigmoid(corners.heat)[0].numpy()
    found = []
    for of_class, row, column in np.ndindex(score.shape):
        around = score[of_class, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        if score[of_class, row, column] == around.max():
            place = np.array([column, row], np.float32) + corners.offset[0, :, row, column].numpy()
            tag = float(corners.tag[0, 0, row, column])
            found.append((float(score[of_class, row, column]), of_class, tag, place))
    return sorted(found, key=lambda each: -each[0])[:count]


@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_those_of_the_published_steps(seed: int) -> None:
    predictions = heads(seed)
    found = detect(predictions, CONFIG)
    wanted = []
    for first in best_corners(predictions.upper_left, 20):
        for second in best_corners(predictions.lower_right, 20):
            fits = first[1] == second[1] and abs(first[2] - second[2]) <= 0.5
            if fits and (second[3] >= first[3]).all():
                wanted.append(((first[0] + second[0]) / 2, first[1], np.concatenate([first[3], second[3]])))
    wanted.sort(key=lambda each: -each[0])
    assert 0 < len(wanted) < 60
    shown = found.scores[0] > 0
    assert int(shown.sum()) == len(wanted)
    np.testing.assert_allclose(found.scores[0][shown].numpy(), [each[0] for each in wanted], rtol=1e-6)
    assert found.classes[0][shown].tolist() == [each[1] for each in wanted]
    scale = np.array([95 / 24, 63 / 16] * 2, np.float32)
    np.testing.assert_allclose(
        found.boxes[0][shown].numpy(), [each[2] * scale for each in wanted], rtol=1e-5, atol=1e-4
    )
    assert not found.boxes[0][~shown].any()


def test_corners_that_do_not_match_give_no_box() -> None:
    """The wrong way round, of two classes, far apart in their embeddings: never a wrong box."""
    rows, columns = CONFIG.map_size
    for wrong in ("order", "class", "tag"):
        first, second = (torch.full((1, 3, rows, columns), -200.0) for _ in range(2))
        low, high = ((4, 5), (9, 12)) if wrong != "order" else ((9, 12), (4, 5))
        first[0, 0, low[0], low[1]] = 5.0
        second[0, 1 if wrong == "class" else 0, high[0], high[1]] = 5.0
        tag = torch.full((1, 1, rows, columns), 0.6 if wrong == "tag" else 0.0)
        offset = torch.zeros(1, 2, rows, columns)
        found = detect(
            Predictions(Corners(first, torch.zeros_like(tag), offset), Corners(second, tag, offset)), CONFIG
        )
        assert not found.scores.any(), wrong


def truth(boxes: list[list[float]], classes: list[int]) -> InstanceTargets:
    return InstanceTargets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        torch.zeros(len(boxes), *CONFIG.input_size, dtype=torch.bool),
        torch.zeros(0, 4),
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (3, 40), (1, 1)])
def test_the_radius_leaves_the_overlap_that_it_is_for(height: int, width: int) -> None:
    """Of the three ways in which corners may be off, the worst leaves exactly the IoU asked for."""
    radius, area = peak_radius(height, width, 0.3, solved=True), height * width
    moved = max(height - radius, 0) * max(width - radius, 0)
    grown = area / ((height + 2 * radius) * (width + 2 * radius))
    shrunk = max(height - 2 * radius, 0) * max(width - 2 * radius, 0) / area
    assert min(moved / (2 * area - moved), grown, shrunk) == pytest.approx(0.3, abs=1e-6)


def test_losses_are_the_published_ones() -> None:
    images = [truth([[8, 4, 30, 20], [40, 30, 95, 63]], [1, 0]), truth([], [])]
    stacks = [both(heads(1), heads(2)), both(heads(3), heads(4))]
    found = losses(CONFIG, stacks, images)
    wanted = {"heat": 0.0, "pull": 0.0, "push": 0.0, "offset": 0.0}
    for stack in stacks:
        tags = []
        for number, corners in enumerate(stack.corners):
            own = [targets_of(image, CONFIG)[number] for image in images]
            heat = torch.stack([each.heat for each in own])
            wanted["heat"] += float(peak_loss(corners.heat, heat, 2.0, 4.0)) / 2
            for cell, offset in zip(own[0].cells.tolist(), own[0].offsets, strict=True):
                row, column = divmod(cell, CONFIG.map_size[1])
                apart = (corners.offset[0, :, row, column] - offset).abs()
                smooth = torch.where(apart < 1, apart**2 / 2, apart - 0.5)
                wanted["offset"] += float(smooth.sum()) / (2 + 1e-4) / 2
            tags.append(corners.tag[0].flatten()[own[0].cells].double())
        mean = (tags[0] + tags[1]) / 2
        wanted["pull"] += 0.1 * float(sum(((tag - mean) ** 2).sum() for tag in tags)) / (2 + 1e-4) / 2
        push = sum(
            max(0.0, 1 - abs(float(mean[i] - mean[j]))) - 1 / (2 + 1e-4) for i in range(2) for j in range(2)
        )
        wanted["push"] += 0.1 * push / (2 + 1e-4) / 2
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4), name


def test_embeddings_without_things_cost_nothing() -> None:
    pull, push = embedding_losses(torch.zeros(0), torch.zeros(0))
    assert float(pull) == float(push) == 0.0


def test_targets_are_scaled_by_what_the_map_is_of_the_input() -> None:
    first, second, _ = targets_of(truth([[8, 4, 30, 20]], [1]), CONFIG)
    x, y = np.array([8, 30]) * 24 / 95, np.array([4, 20]) * 16 / 63
    for found, column, row in ((first, x[0], y[0]), (second, x[1], y[1])):
        assert found.cells.tolist() == [math.floor(row) * 24 + math.floor(column)]
        np.testing.assert_allclose(found.offsets[0], [column % 1, row % 1], atol=1e-5)


def test_a_size_that_the_hourglass_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        CornernetConfig(input_size=(500, 511))


def up(x: Tensor) -> Tensor:
    """Top pooling: at each place the maximum of it and all below."""
    return x.flip(2).cummax(dim=2).values.flip(2)


def left(x: Tensor) -> Tensor:
    return x.flip(3).cummax(dim=3).values.flip(3)


def test_a_cascade_looks_inwards_before_it_pools_along_the_edge() -> None:
    torch.manual_seed(3)
    pooling = CascadeCornerPooling(6, 4, max_from).eval()
    x = torch.randn(2, 6, 7, 9)
    first = up(pooling.P1_look_conv(pooling.p1_conv1(x) + left(pooling.look_conv1(x))))
    second = left(pooling.P2_look_conv(pooling.p2_conv1(x) + up(pooling.look_conv2(x))))
    torch.testing.assert_close(pooling.pool(x), first + second)


def test_a_centre_sees_whole_rows_and_columns() -> None:
    torch.manual_seed(3)
    pooling = CentrePooling(6, 4).eval()
    x = torch.randn(2, 6, 7, 9)
    column = up(pooling.p1_conv1(x)).cummax(dim=2).values
    row = left(pooling.p2_conv1(x)).cummax(dim=3).values
    torch.testing.assert_close(pooling.pool(x), column + row)


def test_centres_are_peaks_in_input_pixels() -> None:
    rows, columns = CONFIG.map_size
    heat = torch.full((1, 3, rows, columns), -200.0)
    heat[0, 2, 5, 7], heat[0, 0, 1, 2] = 2.0, 1.0
    found = detect_centres(Centres(heat, torch.full((1, 2, rows, columns), 0.25)), CONFIG)
    assert found.classes[0, :3].tolist() == [2, 0, 0]
    scale = np.array([95 / 24, 63 / 16])
    np.testing.assert_allclose(found.places[0, :2], [[7.25, 5.25] * scale, [2.25, 1.25] * scale], rtol=1e-6)
    assert not found.scores[0, 2:].any()


def test_triplets_learn_centres_too() -> None:
    config = msgspec.structs.replace(TRIPLETS_MICRO, class_count=3)
    image = truth([[8, 4, 30, 20]], [1])
    wanted = targets_of(image, config).centre
    column, row = 19 * 24 / 95, 12 * 16 / 63
    assert wanted.cells.tolist() == [math.floor(row) * 24 + math.floor(column)]
    side = max(0, int(peak_radius(math.ceil(16 * 16 / 63), math.ceil(22 * 24 / 95), 0.7, solved=False)))
    beside = wanted.heat[1, math.floor(row), math.floor(column) + 1]
    assert float(beside) == pytest.approx(math.exp(-1 / (2 * ((2 * side + 1) / 5) ** 2)), rel=1e-5)
    corners = heads(1)
    centre = Centres(corners.upper_left.heat, corners.upper_left.offset)
    without = losses(config, [Predictions(*corners.corners)], [image])
    found = losses(config, [Predictions(*corners.corners, centre)], [image])
    added = float(found["heat"] - without["heat"])
    assert added == pytest.approx(float(peak_loss(centre.heat, wanted.heat[None], 2.0, 4.0)), rel=1e-4)
    assert found["pull"] == without["pull"]
