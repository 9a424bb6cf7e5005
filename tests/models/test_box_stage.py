"""The box stage against its procedure, one region at a time."""

import math

import msgspec
import pytest
import torch
from torch.nn import functional as F

from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.two_stage.box_stage import (
    BoxDecoding,
    BoxStage,
    BoxStageConfig,
    ClearClass,
    EveryClass,
)
from edgewise.models.layers.two_stage.class_rows import ClassRows
from edgewise.models.layers.two_stage.region_pooling import RegionPooling
from edgewise.models.layers.two_stage.sampling import Objects, Regions, RoiSampling, sample_regions

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, SIZE = 3, (64, 96)
BACKGROUND_FIRST = {
    "logits": ClassRows(classes=CLASSES, count=CLASSES + 1, first=1),
    "background": 0,
    "regression": ClassRows(classes=CLASSES, count=CLASSES + 1, first=1),
}
BACKGROUND_LAST = {
    "logits": ClassRows(classes=CLASSES, count=CLASSES + 1, first=0),
    "background": CLASSES,
    "regression": ClassRows(classes=CLASSES, count=CLASSES, first=0),
}
LAYOUTS = pytest.mark.parametrize("rows", [BACKGROUND_FIRST, BACKGROUND_LAST], ids=["first", "last"])
CONVENTIONS = pytest.mark.parametrize("plus_one", [True, False])


def stage_of(rows, plus_one: bool = True, slots: int = 12, threshold: float = 0.5) -> BoxStage:
    """A stage whose regions are of clear classes, with boxes that move."""
    config = BoxStageConfig(
        inputs=4,
        pooling=RegionPooling(
            strides=(4, 8),
            canonical_level=1,
            canonical_size=32.0,
            epsilon=1e-6,
            epsilon_inside=True,
            plus_one=plus_one,
            half_pixel=not plus_one,
            samples_per_bin=2,
        ),
        bins=3,
        convolutions=0,
        channels=16,
        layers=2,
        **rows,
        coding=BoxCoding(weights=(10.0, 10.0, 5.0, 5.0), plus_one=plus_one),
        extent=SIZE,
        beta=0.5,
        decoding=BoxDecoding(
            choice=ClearClass(score_threshold=threshold),
            smallest=0.0,
            iou_threshold=0.4,
            rounds=40,
            slots=slots,
        ),
    )
    torch.manual_seed(0)
    stage = BoxStage(config)
    for layer in (stage.fc6, stage.fc7):
        torch.nn.init.kaiming_normal_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.normal_(stage.cls_score.weight, std=0.2)
    torch.nn.init.zeros_(stage.cls_score.bias)
    torch.nn.init.normal_(stage.bbox_pred.weight, std=0.3)
    return stage


def levels(images: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [8 * torch.randn(images, 4, SIZE[0] // s, SIZE[1] // s, generator=generator) for s in (4, 8)]


def some_regions(count: int = 40, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor([70.0, 40.0])
    return torch.cat((low, low + 6 + torch.rand(count, 2, generator=generator) * 20), dim=1)


def iou(a: list[float], b: list[float], one: float) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + one, 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + one, 0.0)
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


# ---------------------------------------------------------------- decode


def sequential(stage: BoxStage, maps, regions, valid) -> list[tuple[float, int, list[float]]]:
    """(probability, class, box) of the detections, best first, by loops over regions and classes."""
    config = stage.config
    logits, deltas = stage(config.pooling.pool(maps, regions, config.bins))
    first = config.logits.first
    candidates = []
    for index in torch.nonzero(valid).flatten().tolist():
        for label in range(CLASSES):
            probability = float(logits[index].softmax(dim=0)[first + label])
            if probability > config.decoding.choice.score_threshold:
                delta = deltas[index, config.regression.first + label]
                box = config.coding.clip(config.coding.decode(delta, regions[index]), SIZE)
                candidates.append((probability, label, box.tolist()))
    one = 1.0 if config.coding.plus_one else 0.0
    kept: list[tuple[float, int, list[float]]] = []
    for candidate in sorted(candidates, reverse=True):
        if all(iou(candidate[2], other[2], one) <= config.decoding.iou_threshold for other in kept):
            kept.append(candidate)
    return kept[: config.decoding.slots]


@torch.no_grad()
@LAYOUTS
@CONVENTIONS
@pytest.mark.parametrize("slots", [10, 60])
def test_detections_are_the_sequential_procedure(rows, plus_one, slots):
    stage, maps, regions = stage_of(rows, plus_one, slots), levels(), some_regions()
    valid = torch.arange(40) % 7 != 0
    boxes, scores, classes, settled = stage.detect(maps, regions, valid)
    wanted = sequential(stage, maps, regions, valid)
    assert (len(wanted) == slots) == (slots == 10)
    assert len({label for _, label, _ in wanted}) > 1
    assert bool(settled)
    assert boxes.shape == (slots, 4)
    for slot, (probability, label, box) in enumerate(wanted):
        assert float(scores[slot]) == pytest.approx(probability, abs=1e-5)
        assert int(classes[slot]) == label
        assert boxes[slot].tolist() == pytest.approx(box, abs=1e-3)
    for values in (boxes, scores, classes):
        assert not values[len(wanted) :].any()


@torch.no_grad()
def test_suppression_knows_no_classes():
    """Two regions at one place, of different classes: the better one stands alone."""
    regions = torch.tensor([[10.0, 10, 30, 30], [11, 10, 31, 30]])
    stage = stage_of(BACKGROUND_FIRST)
    for layer in (stage.cls_score, stage.bbox_pred):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    logits = torch.tensor([[0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 8.0, 0.0]])
    stage.cls_score.register_forward_hook(lambda *_: logits)
    found = stage.detect(levels(), regions, torch.tensor([True, True]))
    assert int((found.scores > 0).sum()) == 1
    assert (int(found.classes[0]), found.boxes[0].tolist()) == (0, regions[0].tolist())


@torch.no_grad()
@pytest.mark.parametrize(
    ("candidates", "slots", "proven"), [(400, 80, True), (30, 3, True), (30, 30, False), (30, 80, False)]
)
def test_pairs_that_were_left_out_show(candidates, slots, proven):
    """Class by class: what is left out matters only where the slots are not full without it."""
    stage = stage_of(BACKGROUND_FIRST, slots=slots)
    choice = EveryClass(score_threshold=0.05, candidates=candidates)
    regions = some_regions(40, 3)
    decoding = msgspec.structs.replace(stage.config.decoding, choice=choice)
    stage.config = msgspec.structs.replace(stage.config, decoding=decoding)
    found = stage.detect(levels(), regions, torch.ones(40, dtype=torch.bool))
    every = msgspec.structs.replace(decoding, choice=EveryClass(score_threshold=0.05, candidates=3840))
    stage.config = msgspec.structs.replace(stage.config, decoding=every)
    wanted = stage.detect(levels(), regions, torch.ones(40, dtype=torch.bool))
    assert bool(wanted.settled)
    assert bool(found.settled) == proven
    assert torch.equal(found.scores, wanted.scores) == proven


def test_places_must_be_as_many_as_classes():
    with pytest.raises(ValueError, match="as many places"):
        ClassRows(classes=3, count=5, places=(1, 5, 2))
    rows = ClassRows(classes=3, count=5, places=(4, 1, 2))
    assert rows.of(torch.tensor([[2, 0]])).tolist() == [[2, 4]]
    assert rows.select(torch.arange(10).reshape(2, 5)).tolist() == [[4, 1, 2], [9, 6, 7]]


def test_a_choice_below_one_half_is_refused():
    with pytest.raises(ValueError, match=r"0\.5\.\.1"):
        ClearClass(score_threshold=0.3)


def test_classes_must_fit_their_rows():
    with pytest.raises(ValueError, match="do not fit"):
        ClassRows(classes=3, count=3, first=1)


# ---------------------------------------------------------------- loss


def sampled(stage: BoxStage) -> Regions:
    """Regions of three images, the second without objects."""
    generator = torch.Generator().manual_seed(2)
    boxes = [some_regions(2, 7), torch.zeros(0, 4), some_regions(3, 8)]
    objects = [
        Objects(part, torch.randint(0, CLASSES, (len(part),), generator=generator), part, torch.zeros(0, 4))
        for part in boxes
    ]
    return sample_regions(
        [some_regions(30, seed) for seed in range(3)],
        objects,
        coding=stage.config.coding,
        sampling=RoiSampling(count=12),
    )


def test_regions_of_a_batch_know_their_image():
    regions = sampled(stage_of(BACKGROUND_FIRST))
    assert [item.foreground > 0 for item in regions.per_image] == [True, False, True]
    for index, item in enumerate(regions.per_image):
        assert torch.equal(regions.boxes[regions.images == index], item.rois)


@LAYOUTS
@CONVENTIONS
@pytest.mark.parametrize("beta", [0.5, 0.0])
def test_the_loss_is_the_formula_region_by_region(rows, plus_one, beta):
    """Smooth L1, and L1 where beta is 0."""
    stage, maps = stage_of(rows, plus_one), levels(3)
    stage.config = msgspec.structs.replace(stage.config, beta=beta)
    config, regions = stage.config, sampled(stage)
    got_class, got_box = stage.loss(maps, regions)
    entropies, differences, count = [], [], 0
    for image, item in enumerate(regions.per_image):
        alone = [level[image, None] for level in maps]
        for index, region in enumerate(item.rois):
            logits, deltas = stage(config.pooling.pool(alone, region[None], config.bins))
            label = int(item.classes[index])
            row = rows["background"] if label < 0 else config.logits.first + label
            entropies.append(-torch.log_softmax(logits[0], dim=0)[row])
            count += 1
            if label >= 0:
                error = (deltas[0, config.regression.first + label] - item.deltas[index]).abs()
                smooth = error**2 / (2 * beta) if beta else error
                differences.append(torch.where(error < beta, smooth, error - beta / 2).sum())
    assert len(differences) >= 2
    torch.testing.assert_close(got_class, torch.stack(entropies).mean())
    torch.testing.assert_close(got_box, torch.stack(differences).sum() / count)


@LAYOUTS
def test_a_stage_learns_what_it_then_detects(rows):
    """Loss and decode read the same rows: a region trained on a class and a box gives them back."""
    stage, maps = stage_of(rows), levels()
    regions, boxes = some_regions(12, 4), torch.tensor([[8.0, 8, 30, 34], [50, 20, 80, 50]])
    objects = Objects(boxes, torch.tensor([2, 0]), boxes, torch.zeros(0, 4))
    coding = stage.config.coding
    optimiser = torch.optim.Adam(stage.parameters(), lr=1e-2)
    picked = sample_regions([regions], [objects], coding=coding, sampling=RoiSampling(count=14))
    for _ in range(150):
        optimiser.zero_grad()
        sum(stage.loss(maps, picked)).backward()
        optimiser.step()
    with torch.no_grad():
        found = stage.detect(maps, picked.boxes, torch.ones(len(picked.boxes), dtype=torch.bool))
    full = int((found.scores > 0).sum())
    assert sorted(found.classes[:full].tolist()) == [0, 2]
    wanted = boxes[[1, 0]] if int(found.classes[0]) == 0 else boxes
    torch.testing.assert_close(found.boxes[:full], wanted, atol=1.0, rtol=0.0)


def test_an_empty_batch_of_regions_has_no_loss():
    stage = stage_of(BACKGROUND_FIRST)
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 4))
    regions = sample_regions(
        [torch.zeros(0, 4)], [nothing], coding=stage.config.coding, sampling=RoiSampling()
    )
    assert [float(term.detach()) for term in stage.loss(levels(), regions)] == [0.0, 0.0]


def test_an_untrained_stage_guesses():
    stage = stage_of(BACKGROUND_FIRST)
    torch.nn.init.zeros_(stage.cls_score.weight)
    torch.nn.init.zeros_(stage.cls_score.bias)
    label, _ = stage.loss(levels(3), sampled(stage))
    assert float(label.detach()) == pytest.approx(math.log(CLASSES + 1), rel=1e-5)


# ---------------------------------------------------------------- pooling


@CONVENTIONS
def test_regions_are_read_from_the_level_of_their_size(plus_one):
    pooling = stage_of(BACKGROUND_FIRST, plus_one).config.pooling
    one = 1.0 if plus_one else 0.0
    constant = [torch.full((1, 1, 16, 24), 4.0), torch.full((1, 1, 8, 12), 8.0)]
    sides = torch.tensor([10.0, 31.9, 32.0, 50.0])
    low = torch.full((4, 2), 8.0)
    regions = torch.cat((low, low + sides[:, None] - one), dim=1)
    for pooled in (pooling.pool(constant, regions, 2), pooling.deploy(constant, regions, 2)):
        assert pooled.shape == (4, 1, 2, 2)
        assert F.adaptive_avg_pool2d(pooled, 1).flatten().tolist() == [4.0, 4.0, 8.0, 8.0]
