"""Fixed-shape suppression against plain sequential loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.models.layers.nms import fast_nms, greedy_nms, rank_order

pytestmark = pytest.mark.usefixtures("one_thread")


def clustered(seed: int, count: int, clusters: int) -> torch.Tensor:
    """Corner boxes [count, 4] around a few centres, so that many overlap."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 400, (clusters, 2))[rng.integers(0, clusters, count)]
    sizes = rng.uniform(30, 80, (count, 2))
    centres = centres + rng.normal(0, 12, (count, 2))
    return torch.tensor(
        np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1), dtype=torch.float32
    )


def exact_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def loop_fast(boxes: np.ndarray, threshold: float) -> list[bool]:
    return [all(exact_iou(boxes[i], boxes[j]) <= threshold for i in range(j)) for j in range(len(boxes))]


def loop_greedy(boxes: np.ndarray, groups: np.ndarray, valid: np.ndarray, threshold: float) -> list[bool]:
    keep: list[bool] = []
    for j in range(len(boxes)):
        fallen = any(
            keep[i] and groups[i] == groups[j] and exact_iou(boxes[i], boxes[j]) > threshold for i in range(j)
        )
        keep.append(bool(valid[j]) and not fallen)
    return keep


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6), st.sampled_from([0.3, 0.5, 0.7]))
def test_fast_nms_is_one_round(seed, count, clusters, threshold):
    boxes = clustered(seed, count, clusters)
    assert fast_nms(boxes, threshold).tolist() == loop_fast(boxes.double().numpy(), threshold)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([0.3, 0.5, 0.7]),
)
def test_greedy_nms_is_the_sequential_answer(seed, count, clusters, group_count, threshold):
    boxes = clustered(seed, count, clusters)
    rng = np.random.default_rng(seed)
    groups, valid = rng.integers(0, group_count, count), rng.random(count) < 0.8
    keep, settled = greedy_nms(
        boxes[None], torch.from_numpy(groups)[None], torch.from_numpy(valid)[None], threshold, count + 2
    )
    assert settled.tolist() == [True]
    assert keep[0].tolist() == loop_greedy(boxes.double().numpy(), groups, valid, threshold)


def chain(length: int) -> torch.Tensor:
    """Each box overlaps its neighbours only, so the sequential answer alternates along the whole chain."""
    left = torch.arange(length, dtype=torch.float32) * 3.0
    return torch.stack((left, torch.zeros(length), left + 10.0, torch.full((length,), 10.0)), dim=1)


@pytest.mark.parametrize(("length", "enough"), [(10, True), (200, False)])
def test_a_long_chain_is_reported_not_guessed(length, enough):
    boxes = chain(length)[None]
    ones = torch.ones(1, length, dtype=torch.bool)
    keep, settled = greedy_nms(boxes, torch.zeros(1, length), ones, 0.5, rounds=24)
    alternating = [index % 2 == 0 for index in range(length)]
    assert bool(settled[0]) is enough
    assert (keep[0].tolist() == alternating) is enough
    keep, settled = greedy_nms(boxes, torch.zeros(1, length), ones, 0.5, rounds=length + 2)
    assert bool(settled[0])
    assert keep[0].tolist() == alternating


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_settled_is_never_claimed_for_a_wrong_answer(seed, rounds):
    boxes = torch.cat((chain(30), clustered(seed, 30, 3)))
    ones = torch.ones(1, 60, dtype=torch.bool)
    keep, settled = greedy_nms(boxes[None], torch.zeros(1, 60), ones, 0.5, rounds)
    right = keep[0].tolist() == loop_greedy(boxes.double().numpy(), np.zeros(60), np.ones(60), 0.5)
    assert right or not bool(settled[0])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 6),
    st.sampled_from([0.3, 0.5, 0.7]),
)
def test_inclusive_corners_are_boxes_one_pixel_larger(seed, count, clusters, threshold):
    boxes = clustered(seed, count, clusters) / 8
    valid = torch.ones(1, count, dtype=torch.bool)
    keep, settled = greedy_nms(boxes[None], None, valid, threshold, count + 2, plus_one=True)
    larger = boxes.double().numpy() + np.array([0.0, 0.0, 1.0, 1.0])
    assert bool(settled[0])
    assert keep[0].tolist() == loop_greedy(larger, np.zeros(count), valid[0].numpy(), threshold)


def test_the_conventions_differ_near_the_threshold():
    # 10 x 10 boxes 3 apart: inclusive they share 8 of 11 columns, IoU 8/14; continuous 7/13.
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [3.0, 0.0, 13.0, 10.0]]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    for plus_one, kept in ((True, [True, False]), (False, [True, True])):
        keep, _ = greedy_nms(boxes, None, valid, 0.55, 4, plus_one=plus_one)
        assert keep[0].tolist() == kept


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_one_order_serves_every_smaller_count(seed, count):
    boxes, valid = clustered(seed, count, 3)[None], torch.ones(1, count, dtype=torch.bool)
    shared = greedy_nms(boxes, None, valid, 0.5, 12, order=rank_order(60))
    for got, expected in zip(shared, greedy_nms(boxes, None, valid, 0.5, 12), strict=True):
        assert torch.equal(got, expected)


def test_without_a_count_the_rounds_go_on_until_settled():
    boxes, valid = chain(120)[None].repeat(2, 1, 1), torch.ones(2, 120, dtype=torch.bool)
    keep, settled = greedy_nms(boxes, None, valid, 0.5, None)
    assert settled.tolist() == [True, True]
    assert keep[1].tolist() == [index % 2 == 0 for index in range(120)]


def test_boxes_without_area_neither_fall_nor_suppress():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [0, 0, 10, 10]])
    assert fast_nms(boxes, 0.5).tolist() == [True, True, True, False]


def test_images_and_classes_of_a_batch_do_not_mix():
    boxes = torch.stack([clustered(seed, 40, 3) for seed in range(6)]).reshape(2, 3, 40, 4)
    batched = fast_nms(boxes, 0.5)
    for image in range(2):
        for label in range(3):
            assert torch.equal(batched[image, label], fast_nms(boxes[image, label], 0.5))
