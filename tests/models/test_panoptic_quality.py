"""Panoptic quality: the definition's numbers, a well-kept evaluator's numbers, and no number for nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.detection import PanopticQuality as ReferenceQuality

from edgewise.models.scenes import LABELS, STUFF_LABELS, write_dataset
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.panoptic.dataset import CocoPanoptic, Segments
from edgewise.models.tasks.panoptic.metric import PanopticCounts, PanopticQuality, count_matches
from edgewise.models.tasks.task import Measured
from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.system.errors import DatasetError

CLASSES = 4
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> CocoPanoptic:
    return CocoPanoptic.open(write_dataset(tmp_path_factory.mktemp("quality") / "scenes", 16, 77, 64))


def _perturbed(truth: Panoptic, rng: np.random.Generator) -> Panoptic:
    """Borders moved, some segments of another class, some lost, some split in two."""
    ids = np.roll(truth.segments.astype(np.int64), tuple(rng.integers(-4, 5, 2)), (0, 1))
    classes = truth.classes.copy()
    things = len(LABELS)
    for index in range(len(classes)):
        chance = rng.random()
        if chance < 0.15:
            group = range(things) if classes[index] < things else range(things, len(truth.labels))
            classes[index] = rng.choice([one for one in group if one != classes[index]])
        elif chance < 0.25:
            ids[ids == index + 1] = 0
        elif chance < 0.35 and classes[index] < things:
            half = (ids == index + 1) & (np.arange(ids.shape[1]) > ids.shape[1] // 2)
            ids[half] = len(classes) + 1
            classes = np.append(classes, classes[index])
    # A stuff class is one segment a picture.
    numbers = np.concatenate([[0], np.arange(1, len(classes) + 1)])
    for stuff in range(things, len(truth.labels)):
        members = np.flatnonzero(classes == stuff)
        numbers[members + 1] = members[0] + 1 if len(members) else 0
    return Panoptic.of_segments(numbers[ids], classes, rng.random(len(classes)), truth.labels)


def _coloured(result: Panoptic) -> torch.Tensor:
    """[H, W, 2] of category (0 void) and instance."""
    category = np.array([0, *(result.classes + 1)])[result.segments]
    instance = np.where(category <= len(LABELS), result.segments, 0)
    return torch.from_numpy(np.stack([category, instance], axis=2).astype(np.int64))


def test_the_reference_evaluator_gives_the_same_numbers(scenes: CocoPanoptic) -> None:
    rng = np.random.default_rng(3)
    things, stuff = len(LABELS), len(STUFF_LABELS)
    reference = ReferenceQuality(
        things=set(range(1, things + 1)),
        stuffs={0, *range(things + 1, things + stuff + 1)},
        return_per_class=True,
        return_sq_and_rq=True,
    )
    measuring = PanopticQuality().begin(scenes)
    for index in range(len(scenes)):
        truth = scenes.truth(index)
        found = _perturbed(truth, rng)
        measuring.add(index, found)
        # Void is the reference's extra class 0, which these scenes' ground truth never holds.
        reference.update(_coloured(found)[None], _coloured(truth)[None])
    expected = reference.compute().reshape(-1, 3)
    named = {int(colour): values for colour, values in zip(_order(reference), expected.numpy(), strict=True)}
    measured = measuring.value()
    assert 0.15 < measured.value < 0.9
    per_class = [named[1 + index][0] for index in range(things + stuff)]
    for index, label in enumerate(scenes.vocabulary.classes):
        assert measured.parts[label.name] == pytest.approx(per_class[index], abs=1e-6)
    assert measured.value == pytest.approx(np.mean(per_class), abs=1e-6)
    for name, column in (("SQ", 1), ("RQ", 2)):
        wanted = np.mean([named[1 + index][column] for index in range(things + stuff)])
        assert measured.parts[name] == pytest.approx(wanted, abs=1e-6)
    assert measured.parts["PQ_th"] == pytest.approx(np.mean(per_class[:things]), abs=1e-6)
    assert measured.parts["PQ_st"] == pytest.approx(np.mean(per_class[things:]), abs=1e-6)


def _order(reference: ReferenceQuality) -> list[int]:
    """The colours of the reference's rows: things, then stuff, each rising."""
    return [*sorted(reference.things), *sorted(reference.stuffs)]


def _by_the_book(truth: Segments, found: Array, classes: Array) -> dict[int, list[float]]:
    """The definition, segment by segment: class -> [iou, tp, fp, fn]."""
    totals: dict[int, list[float]] = {index: [0.0, 0, 0, 0] for index in range(CLASSES)}
    matched_true, matched_found = set(), set()
    void = truth.places == 0
    for row in range(len(truth.classes)):
        for column in range(len(classes)):
            real, guess = truth.places == row + 1, found == column + 1
            shared = int((real & guess).sum())
            if truth.crowd[row] or truth.classes[row] != classes[column] or not shared:
                continue
            union = int(real.sum()) + int(guess.sum()) - shared - int((void & guess).sum())
            if shared / union > 0.5:
                totals[int(classes[column])][0] += shared / union
                totals[int(classes[column])][1] += 1
                matched_true.add(row)
                matched_found.add(column)
    for row in range(len(truth.classes)):
        if row not in matched_true and not truth.crowd[row]:
            totals[int(truth.classes[row])][3] += 1
    for column in range(len(classes)):
        if column in matched_found:
            continue
        guess = found == column + 1
        excused = int((void & guess).sum())
        for row in range(len(truth.classes)):
            if truth.crowd[row] and truth.classes[row] == classes[column]:
                excused += int(((truth.places == row + 1) & guess).sum())
        if excused / int(guess.sum()) <= 0.5:
            totals[int(classes[column])][2] += 1
    return totals


@st.composite
def _pictures(draw: st.DrawFn) -> tuple[Segments, Array, Array]:
    """Small pictures in which matches, voids, crowds and misses all happen."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    blocks = rng.integers(0, rows + 1, (3, 4)).repeat(3, 0).repeat(3, 1)
    places = _compact(blocks, rows)
    count = int(places.max(initial=0))
    # The prediction follows the truth in most places, so that segments match.
    found = np.where(rng.random(places.shape) < 0.8, places, rng.integers(0, columns + 1, places.shape))
    found = _compact(found, max(rows, columns))
    classes = rng.integers(0, CLASSES, count)
    crowd = rng.random(count) < 0.3
    guesses = rng.integers(0, CLASSES, int(found.max(initial=0)))
    same = min(len(classes), len(guesses))
    guesses[:same] = np.where(rng.random(same) < 0.7, classes[:same], guesses[:same])
    return Segments(places.astype(np.uint8), classes, crowd), found, guesses


def _compact(ids: Array, most: int) -> Array:
    present = [one for one in range(1, most + 1) if (ids == one).any()]
    numbers = np.zeros(most + 1, np.int64)
    numbers[present] = np.arange(1, len(present) + 1)
    return numbers[ids]


@settings(max_examples=150)
@given(_pictures())
def test_counts_follow_the_definition(picture: tuple[Segments, Array, Array]) -> None:
    truth, found, guesses = picture
    counts = count_matches(truth, found.astype(np.uint32), guesses, CLASSES)
    for index, (iou, matched, wrong, missed) in _by_the_book(truth, found, guesses).items():
        assert counts.iou[index] == pytest.approx(iou)
        assert (counts.matched[index], counts.wrong[index], counts.missed[index]) == (matched, wrong, missed)


def test_the_pictures_of_that_test_hold_every_case() -> None:
    totals = np.zeros(4)

    @settings(max_examples=60, database=None, derandomize=True)
    @given(_pictures())
    def collect(picture: tuple[Segments, Array, Array]) -> None:
        truth, found, guesses = picture
        for values in _by_the_book(truth, found, guesses).values():
            totals[:] += values

    collect()
    assert (totals > 5).all()


def _measured(scenes: CocoPanoptic, results: Sequence[Panoptic]) -> Measured:
    """PQ on the first pictures of the scenes, as many as there are results."""
    measuring = PanopticQuality().begin(scenes)
    for index, result in enumerate(results):
        measuring.add(index, result)
    return measuring.value()


def test_the_truth_is_perfect_and_nothing_is_worthless(scenes: CocoPanoptic) -> None:
    truth = [scenes.truth(index) for index in range(len(scenes))]
    nothing = [result.above(2.0) for result in truth]
    perfect = _measured(scenes, truth)
    assert perfect.value == 1.0
    assert perfect.images == 16
    assert {perfect.parts[name] for name in ("SQ", "RQ", "PQ_th", "PQ_st")} == {1.0}
    assert _measured(scenes, nothing).value == 0.0
    assert _measured(scenes, truth[:5]).value == 1.0
    assert _measured(scenes, [*truth[:5], *nothing[5:]]).value < 1.0


def test_labels_in_another_order_name_the_same_classes(scenes: CocoPanoptic) -> None:
    """A model may know the dataset's categories in its own order, and more of them than occur."""
    labels = scenes.vocabulary.classes
    own = (ClassLabel(id=999, name="unseen"), *labels[::-1])

    def renamed(truth: Panoptic) -> Panoptic:
        classes = np.array([own.index(labels[class_index]) for class_index in truth.classes])
        return Panoptic.of_segments(truth.segments, classes, truth.scores, own)

    assert _measured(scenes, [renamed(scenes.truth(index)) for index in range(len(scenes))]).value == 1.0


def test_classes_that_are_nowhere_are_left_out_of_the_mean() -> None:
    places = np.ones((4, 4), np.uint8)
    truth = Segments(places, np.array([2]), np.array([False]))
    counts = count_matches(truth, places.astype(np.uint32), np.array([2]), CLASSES)
    assert np.isnan(counts.quality()).tolist() == [True, True, False, True]
    assert (counts + PanopticCounts.none(CLASSES)).quality()[2] == 1.0


def test_results_of_another_dataset_are_refused(scenes: CocoPanoptic) -> None:
    truth, measuring = scenes.truth(0), PanopticQuality().begin(scenes)
    other = Panoptic.of_segments(truth.segments[1:], truth.classes, truth.scores, truth.labels)
    with pytest.raises(DatasetError, match="63 x 64 pixels, not 64 x 64"):
        measuring.add(0, other)
    labels = tuple(msgspec.structs.replace(label, id=label.id + 900) for label in truth.labels)
    with pytest.raises(DatasetError, match="category 9"):
        measuring.add(0, replace(truth, labels=labels))
    with pytest.raises(DatasetError, match="score nan"):
        measuring.add(0, replace(truth, scores=np.full(len(truth), np.nan, np.float32)))
    with pytest.raises(DatasetError, match="not Panoptic"):
        measuring.add(0, CocoInstances.open(scenes.json.parent).truth(0))
    with pytest.raises(DatasetError, match="no images"):
        measuring.value()
    measuring.add(0, truth)
    with pytest.raises(DatasetError, match="measured already"):
        measuring.add(0, truth)


def test_the_ground_truth_must_be_panoptic(scenes: CocoPanoptic) -> None:
    instances = CocoInstances.open(scenes.json.parent)
    with pytest.raises(DatasetError, match=r"needs panoptic"):
        PanopticQuality().begin(instances)
