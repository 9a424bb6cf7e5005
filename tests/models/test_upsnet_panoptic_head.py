"""The panoptic head against the published procedure, written with loops over instances and OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.models.families.upsnet.panoptic_head import (
    panoptic_logits,
    panoptic_map,
    paste,
    prune,
    thing_maps,
    winners,
)

pytestmark = pytest.mark.usefixtures("one_thread")

STUFF, THINGS = 2, 3
SIZE = (36, 44)
ROUNDS = 16


def random_case(seed: int, count: int) -> tuple[np.ndarray, ...]:
    """Scores, mask logits with a smooth inside, boxes and classes of `count` candidates, best first."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(STUFF + THINGS, *SIZE)).astype(np.float32)
    coarse = rng.normal(0.3, 1.0, (count, 4, 4)).astype(np.float32)
    logits = [cv2.resize(map_, (28, 28), interpolation=cv2.INTER_LINEAR) for map_ in coarse]
    limit = np.array([SIZE[1] - 1, SIZE[0] - 1])
    low = rng.uniform(0, 0.7, (count, 2)) * limit
    high = np.minimum(low + rng.uniform(0, 30, (count, 2)), limit)
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    logits = np.array(logits, np.float32).reshape(count, 28, 28)
    return scores, logits, boxes, rng.integers(0, THINGS, count)


def published(scores, logits, boxes, classes, overlap=0.3):
    """Pruning and logits at full resolution, one instance after the other.

    Returns the stack of logits, and the slot of each instance channel.
    """
    taken = np.zeros((THINGS, *SIZE), bool)
    kept, pasted = [], []
    for index, (box, label) in enumerate(zip(boxes, classes, strict=True)):
        x1, y1, x2, y2 = (int(value) for value in box)
        window = cv2.resize(logits[index], (x2 - x1 + 1, y2 - y1 + 1), interpolation=cv2.INTER_LINEAR)
        canvas = np.zeros(SIZE, np.float32)
        canvas[y1 : y2 + 1, x1 : x2 + 1] = window
        mask = canvas > 0
        if not mask.any() or (mask & taken[label]).sum() / mask.sum() > overlap:
            continue
        taken[label] |= mask
        kept.append(index)
        pasted.append(canvas)
    if len(boxes) and not kept:
        kept, pasted = [0], [np.zeros(SIZE, np.float32)]
    things = []
    for index in kept:
        x1, y1, x2, y2 = boxes[index]
        canvas = np.zeros(SIZE, np.float32)
        rows, columns = slice(int(y1), int(np.round(y2)) + 1), slice(int(x1), int(np.round(x2)) + 1)
        canvas[rows, columns] = scores[STUFF + classes[index]][rows, columns]
        things.append(canvas)
    unknown = scores[STUFF:].max(axis=0)
    if things:
        unknown = unknown - np.max(things, axis=0)
    instances = [thing + mask for thing, mask in zip(things, pasted, strict=True)]
    return np.stack([*scores[:STUFF], *instances, unknown]), kept


def ours(scores, logits, boxes, classes, slots, stride=1):
    """The head on slots of which the last ones are empty."""
    empty = slots - len(boxes)
    padded = [
        np.concatenate([values, np.zeros((empty, *values.shape[1:]), values.dtype)])
        for values in (logits, boxes, classes)
    ]
    valid = torch.arange(slots) < len(boxes)
    return panoptic_map(
        torch.from_numpy(scores),
        *(torch.from_numpy(values) for values in padded),
        valid,
        stuff_count=STUFF,
        stride=stride,
        overlap=0.3,
        rounds=ROUNDS,
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 8))
def test_the_map_is_the_published_one(seed, count):
    scores, logits, boxes, classes = random_case(seed, count)
    wanted, kept = published(scores, logits, boxes, classes)
    slots = 9
    got = ours(scores, logits, boxes, classes, slots)
    assert bool(got.settled)
    assert torch.nonzero(got.alive).flatten().tolist() == kept
    codes = np.array([*range(STUFF), *(STUFF + slot for slot in kept), STUFF + slots])
    differs = got.segments.numpy() != codes[wanted.argmax(axis=0)]
    ranked = np.sort(wanted, axis=0)
    assert (ranked[-1] - ranked[-2])[differs].max(initial=0) < 1e-4, "only ties may fall otherwise"
    assert differs.mean() < 0.01


def test_nothing_found_leaves_stuff_and_the_unknown():
    scores, *_ = random_case(3, 0)
    got = ours(scores, *random_case(3, 0)[1:], slots=5)
    wanted = np.concatenate([scores[:STUFF], scores[STUFF:].max(axis=0, keepdims=True)]).argmax(axis=0)
    assert np.array_equal(got.segments.numpy(), np.where(wanted == STUFF, STUFF + 5, wanted))
    assert not bool(got.alive.any())
    assert bool(got.settled)


def test_an_empty_slot_never_wins_where_all_is_negative():
    scores = np.full((STUFF + THINGS, *SIZE), -50.0, np.float32)
    scores[STUFF:] = -60.0
    for count in (0, 1):
        _, logits, boxes, classes = random_case(1, count)
        segments = ours(scores, np.full_like(logits, 4.0), boxes, classes, slots=4).segments
        assert not bool(((segments > STUFF) & (segments < STUFF + 4)).any())


def test_when_every_mask_is_empty_the_first_candidate_stays_without_one():
    scores, logits, boxes, classes = random_case(5, 3)
    logits = np.full_like(logits, -3.0)
    got = ours(scores, logits, boxes, classes, slots=4)
    assert got.alive.tolist() == [True, False, False, False]
    wanted, kept = published(scores, logits, boxes, classes)
    assert kept == [0]
    codes = np.array([0, 1, STUFF, STUFF + 4])
    assert np.array_equal(got.segments.numpy(), codes[wanted.argmax(axis=0)])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 10))
def test_pasting_is_opencvs_resize(seed, count):
    _, logits, boxes, _ = random_case(seed, count)
    got = paste(torch.from_numpy(logits), torch.from_numpy(boxes), SIZE, 1).numpy()
    for index, box in enumerate(boxes):
        x1, y1, x2, y2 = (int(value) for value in box)
        canvas = np.zeros(SIZE, np.float32)
        canvas[y1 : y2 + 1, x1 : x2 + 1] = cv2.resize(logits[index], (x2 - x1 + 1, y2 - y1 + 1))
        np.testing.assert_allclose(got[index], canvas, atol=1e-4)


def test_a_box_without_area_pastes_nothing():
    """x2 = x1 - 1 covers no column; the decoded boxes of a network without training reach that."""
    boxes = torch.tensor([[5.0, 4.0, 4.0, 9.0], [5.0, 4.0, 9.0, 3.0], [5.0, 3.0, 4.0, 2.0]])
    for stride in (1, 2):  # with 2, cell centres fall on the boxes' corners
        got = paste(torch.full((3, 28, 28), 7.0), boxes, SIZE, stride)
        assert torch.equal(got, torch.zeros(3, *SIZE))


def test_a_coarser_grid_reads_the_same_surface_at_its_cells():
    """Cell c of stride 3 has its centre on pixel 3c + 1."""
    _, logits, boxes, _ = random_case(8, 6)
    boxes = torch.from_numpy(boxes)
    fine = paste(torch.from_numpy(logits), boxes, SIZE, 1)[:, 1::3, 1::3]
    coarse = paste(torch.from_numpy(logits), boxes, (12, 14), 3)
    torch.testing.assert_close(coarse, fine[:, :12, :14], atol=1e-4, rtol=0)
    scores, classes = torch.randn(STUFF + THINGS, *SIZE), torch.zeros(6, dtype=torch.int64)
    fine = thing_maps(scores, boxes, classes, STUFF, 1)[:, 1::3, 1::3]
    coarse = thing_maps(scores[:, 1::3, 1::3][:, :12, :14], boxes, classes, STUFF, 3)
    assert torch.equal(coarse, fine[:, :12, :14])


def sequential(masks, classes, valid, overlap):
    taken = np.zeros((int(classes.max(initial=0)) + 1, *masks.shape[1:]), bool)
    keep = []
    for mask, label, there in zip(masks, classes, valid, strict=True):
        area = mask.sum()
        stays = there and area > 0 and (mask & taken[label]).sum() * 10 <= area * round(overlap * 10)
        keep.append(bool(stays))
        if stays:
            taken[label] |= mask
    return keep


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 12),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    density=st.floats(0.05, 0.9),
    pair_rounds=st.integers(0, 6),
)
def test_pruning_is_the_sequential_one(seed, count, overlap, density, pair_rounds):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 5, 6)) < density
    classes, valid = rng.integers(0, 2, count), rng.random(count) < 0.8
    keep, settled = prune(
        torch.from_numpy(masks).float(),
        torch.from_numpy(classes),
        torch.from_numpy(valid),
        overlap,
        count + 2,
        pair_rounds,
    )
    assert bool(settled)
    assert keep.tolist() == sequential(masks, classes, valid, overlap)


def test_a_chain_longer_than_the_rounds_is_not_called_settled():
    """Each mask lies half under the one before: whether it stays hangs on all of them."""
    masks = torch.zeros(12, 1, 26)
    for index in range(12):
        masks[index, 0, 2 * index : 2 * index + 4] = 1
    classes, valid = torch.zeros(12, dtype=torch.int64), torch.ones(12, dtype=torch.bool)
    wanted = [index % 2 == 0 for index in range(12)]
    for rounds in range(2, 16):
        keep, settled = prune(masks, classes, valid, 0.3, rounds)
        assert not bool(settled) or keep.tolist() == wanted
        assert bool(settled) == (rounds >= 12)


def test_one_round_over_the_pixels_proves_what_pairs_of_masks_say():
    """In the chain no three masks meet, so the rounds over pairs are enough, however long it is."""
    masks = torch.zeros(12, 1, 26)
    for index in range(12):
        masks[index, 0, 2 * index : 2 * index + 4] = 1
    classes, valid = torch.zeros(12, dtype=torch.int64), torch.ones(12, dtype=torch.bool)
    for pair_rounds in range(16):
        keep, settled = prune(masks, classes, valid, 0.3, 1, pair_rounds)
        assert bool(settled) == (pair_rounds >= 11)
        assert not bool(settled) or keep.tolist() == [index % 2 == 0 for index in range(12)]


def test_what_pairs_of_masks_get_wrong_is_not_called_settled():
    """The same fifth of the last mask lies under each of the others: the sum says two fifths."""
    masks = torch.zeros(3, 1, 30)
    masks[0, 0, :10] = 1
    masks[1, 0, 8:18] = 1
    masks[2, 0, [8, 9, *range(20, 28)]] = 1
    classes, valid = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
    wanted = sequential(masks.numpy() > 0, classes.numpy(), valid.numpy(), 0.3)
    assert wanted == [True, True, True]
    keep, settled = prune(masks, classes, valid, 0.3, 1, 4)
    assert (keep.tolist(), bool(settled)) == (wanted, False)
    keep, settled = prune(masks, classes, valid, 0.3, 2, 4)
    assert (keep.tolist(), bool(settled)) == (wanted, True)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 6))
def test_the_winner_is_the_argmax_of_all_logits(seed, count):
    """Few different values, so that many logits are equal."""
    rng = np.random.default_rng(seed)
    scores, things, pasted = (
        torch.from_numpy(rng.integers(-2, 3, (channels, 6, 7)).astype(np.float32))
        for channels in (STUFF + THINGS, count, count)
    )
    alive = torch.from_numpy(rng.random(count) < 0.6)
    wanted = panoptic_logits(scores, things, pasted, alive, STUFF).argmax(dim=0)
    assert torch.equal(winners(scores, things, pasted, alive, STUFF).long(), wanted)


def test_slots_that_are_not_alive_change_nothing():
    torch.manual_seed(0)
    scores, things, pasted = torch.randn(5, 6, 7), torch.randn(4, 6, 7), torch.randn(4, 6, 7)
    alive = torch.tensor([True, False, True, False])
    got = panoptic_logits(scores, things, pasted, alive, STUFF)
    less = panoptic_logits(scores, things[alive], pasted[alive], alive[alive], STUFF)
    assert torch.equal(got[[0, 1, 2, 4, 6]], less)
    assert bool((got[[3, 5]] < -1e29).all())
