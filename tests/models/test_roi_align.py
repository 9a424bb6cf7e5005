"""RoIAlign against its definition written as loops over samples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgewise.models.layers.roi_align import (
    deploy_pyramid_roi_align,
    pyramid_roi_align,
    roi_align,
    roi_align_op,
    roi_levels,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def sample(plane: np.ndarray, y: float, x: float) -> float:
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = plane[top, left] * (1 - dx) + plane[top, right] * dx
    lower = plane[bottom, left] * (1 - dx) + plane[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def loop_roi_align(features, rois, images, output, scale, sampling, half_pixel):
    pooled = np.zeros((len(rois), features.shape[1], output, output))
    for r, (roi, image) in enumerate(zip(rois, images, strict=True)):
        x1, y1, x2, y2 = (side * scale - (0.5 if half_pixel else 0.0) for side in roi)
        width, height = x2 - x1, y2 - y1
        if not half_pixel:
            width, height = max(width, 1.0), max(height, 1.0)
        for c, i, j in np.ndindex(features.shape[1], output, output):
            total = 0.0
            for a, b in np.ndindex(sampling, sampling):
                y = y1 + (i + (a + 0.5) / sampling) * height / output
                x = x1 + (j + (b + 0.5) / sampling) * width / output
                total += sample(features[image, c], y, x)
            pooled[r, c, i, j] = total / sampling**2
    return pooled


def random_case(seed: int, count: int, size: tuple[int, int], reach: float = 30.0):
    """Features [2, 3, *size] at stride 4 and boxes that may reach over their border."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, 3, *size))
    extent = np.array([size[1], size[0]]) * 4.0
    low = rng.uniform(-reach, extent + reach, (count, 2))
    rois = np.concatenate([low, low + rng.exponential(20.0, (count, 2))], axis=1)
    return features, rois, rng.integers(0, 2, count)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
)
def test_roi_align_is_its_definition(seed, count, height, width, output, sampling, half_pixel):
    features, rois, images = random_case(seed, count, (height, width))
    got = roi_align(
        torch.from_numpy(features),
        torch.from_numpy(rois),
        output=output,
        scale=0.25,
        sampling=sampling,
        half_pixel=half_pixel,
        images=torch.from_numpy(images),
    )
    expected = loop_roi_align(features, rois, images, output, 0.25, sampling, half_pixel)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("half_pixel", [False, True])
def test_a_linear_map_is_read_at_the_bins_centres(half_pixel):
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    features = torch.stack((rows, columns))[None]
    rois = torch.tensor([[8.0, 12.0, 40.0, 44.0]])
    pooled = roi_align(features, rois, output=4, scale=0.25, half_pixel=half_pixel)[0]
    shift = 0.5 if half_pixel else 0.0
    torch.testing.assert_close(pooled[0, :, 0], 3.0 - shift + 2.0 * (torch.arange(4) + 0.5))
    torch.testing.assert_close(pooled[1, 0], 2.0 - shift + 2.0 * (torch.arange(4) + 0.5))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_inside_the_map_it_is_grid_sampling_and_average_pooling(seed, half_pixel):
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(1, 2, 12, 17)))
    low = rng.uniform(2.0, 20.0, (3, 2))
    rois = torch.from_numpy(np.concatenate([low, low + rng.uniform(4.0, 24.0, (3, 2))], axis=1))
    shift = 0.5 if half_pixel else 0.0
    corners = rois * 0.25 - shift
    steps = (torch.arange(6, dtype=torch.float64) + 0.5) / 6
    x = corners[:, 0, None] + steps * (corners[:, 2] - corners[:, 0])[:, None]
    y = corners[:, 1, None] + steps * (corners[:, 3] - corners[:, 1])[:, None]
    grid = torch.stack(
        (x[:, None, :].expand(-1, 6, -1) * 2 / 16 - 1, y[:, :, None].expand(-1, -1, 6) * 2 / 11 - 1), dim=-1
    )
    sampled = F.grid_sample(features.expand(3, -1, -1, -1), grid, align_corners=True)
    got = roi_align(features, rois, output=3, scale=0.25, half_pixel=half_pixel)
    torch.testing.assert_close(got, F.avg_pool2d(sampled, 2))


def test_gradients_reach_features_and_boxes():
    features, rois, images = random_case(5, 3, (5, 6), reach=2.0)
    features, rois = torch.from_numpy(features), torch.from_numpy(rois)
    rois[:, 2:] = rois[:, :2] + 9.3

    def pooled(maps, boxes):
        return roi_align(maps, boxes, output=2, scale=0.25, images=torch.from_numpy(images))

    torch.autograd.gradcheck(pooled, (features.requires_grad_(), rois.requires_grad_()))


def pyramid_case(seed: int, count: int):
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(2, 5, 16 >> level, 24 >> level, generator=generator) for level in range(4)]
    low = torch.rand(count, 2, generator=generator) * torch.tensor([90.0, 60.0])
    rois = torch.cat((low, low + 1 + torch.rand(count, 2, generator=generator) * 50), dim=1)
    index = torch.randint(0, 4, (count,), generator=generator)
    return levels, rois, index, torch.randint(0, 2, (count,), generator=generator)


STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize("half_pixel", [False, True])
def test_every_box_of_a_pyramid_reads_its_own_level_and_image(half_pixel):
    levels, rois, index, images = pyramid_case(1, 30)
    got = pyramid_roi_align(levels, rois, index, STRIDES, output=3, half_pixel=half_pixel, images=images)
    for position in range(30):
        level, image = int(index[position]), int(images[position])
        alone = roi_align(
            levels[level][image, None],
            rois[position, None],
            output=3,
            scale=1 / STRIDES[level],
            half_pixel=half_pixel,
        )
        torch.testing.assert_close(got[position, None], alone)


@pytest.mark.parametrize("half_pixel", [False, True])
def test_the_deployed_chain_gives_what_training_saw(half_pixel):
    levels, rois, index, _ = pyramid_case(2, 25)
    levels = [level[:1] for level in levels]
    trained = pyramid_roi_align(levels, rois, index, STRIDES, output=7, half_pixel=half_pixel)
    deployed = deploy_pyramid_roi_align(levels, rois, index, STRIDES, output=7, half_pixel=half_pixel)
    torch.testing.assert_close(deployed, trained)
    alone = roi_align(levels[1], rois, output=7, scale=0.125, half_pixel=half_pixel)
    torch.testing.assert_close(roi_align_op(levels[1], rois, 7, 0.125, 2, half_pixel), alone)


def test_the_operator_keeps_the_contract_of_custom_operators():
    levels, rois, _, _ = pyramid_case(3, 4)
    torch.library.opcheck(
        roi_align_op, (levels[0][:1], rois, 3, 0.25, 2, False), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("half_pixel", [False, True])
def test_the_deployed_chain_stays_one_operator_a_level_when_exported(half_pixel):
    class Chain(torch.nn.Module):
        def forward(self, levels, rois, index):
            return deploy_pyramid_roi_align(levels, rois, index, STRIDES, output=3, half_pixel=half_pixel)

    levels, rois, index, _ = pyramid_case(2, 6)
    levels = [level[:1] for level in levels]
    program = torch.export.export(Chain(), (levels, rois, index))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names.count("edgewise.roi_align.default") == 4
    assert names.count("aten.where.self") == 3
    assert torch.equal(program.module()(levels, rois, index), Chain()(levels, rois, index))


def box(width: float, height: float) -> list[float]:
    return [3.0, 5.0, 3.0 + width, 5.0 + height]


def test_levels_change_where_the_paper_says():
    rois = torch.tensor([box(10, 10), box(111.9, 111.9), box(112, 112), box(224, 224), box(112, 448)])
    levels = roi_levels(rois, lowest=2, highest=5, canonical_level=4)
    assert levels.tolist() == [2, 2, 3, 4, 4]
    legacy = roi_levels(
        torch.tensor([box(110.9, 110.9), box(111, 111), box(447, 447), box(5000, 5000), box(-9, 4)]),
        lowest=0,
        highest=3,
        canonical_level=2,
        plus_one=True,
    )
    assert legacy.tolist() == [0, 1, 3, 3, 0]


@settings(deadline=None)
@given(
    st.floats(0.5, 2000.0),
    st.floats(0.5, 2000.0),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1e-6, 1e-8]),
)
def test_levels_are_the_formula_with_its_logarithm(width, height, plus_one, inside, epsilon):
    roi = torch.tensor([[0.0, 0.0, width, height]], dtype=torch.float64)
    one = 1.0 if plus_one else 0.0
    size = math.sqrt((width + one) * (height + one)) / 224
    exact = 4 + (math.log2(size + epsilon) if inside else math.log2(size) + epsilon)
    if abs(exact - round(exact)) < 1e-9:
        return
    level = roi_levels(
        roi,
        lowest=2,
        highest=5,
        canonical_level=4,
        plus_one=plus_one,
        epsilon=epsilon,
        epsilon_inside=inside,
    )
    assert level.item() == min(max(math.floor(exact), 2), 5)


def test_the_places_of_epsilon_differ_next_to_a_border():
    # sqrt(area) / 224 = 1 - 8e-7: 1e-6 inside the logarithm lifts it to 1, outside it lacks 1.5e-7 of it.
    side = 224 * (1 - 8e-7)
    roi = torch.tensor([[0.0, 0.0, side, side]], dtype=torch.float64)
    levels = [
        roi_levels(roi, lowest=2, highest=5, canonical_level=4, epsilon_inside=inside).item()
        for inside in (True, False)
    ]
    assert levels == [4, 3]
