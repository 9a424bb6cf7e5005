"""Proposals and their loss against the published procedure written as loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.models.layers.anchors import AnchorRule, per_anchor, pyramid_anchors
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.two_stage.proposal_stage import (
    Divisor,
    ProposalConfig,
    ProposalStage,
    ProposalStageConfig,
    proposals,
)
from edgewise.models.layers.two_stage.sampling import (
    FOREGROUND,
    NEUTRAL,
    AnchorSampling,
    Objects,
    anchor_targets,
)

pytestmark = pytest.mark.usefixtures("one_thread")

STRIDES = (4, 8, 16)
SIZE = (48, 64)
GRIDS = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
RATIOS = (0.5, 1.0, 2.0)


def anchors_of(coding: BoxCoding) -> tuple[torch.Tensor, ...]:
    rule = AnchorRule.DETECTRON if coding.plus_one else AnchorRule.DETECTRON2
    return pyramid_anchors(GRIDS, STRIDES, [(2 * stride,) for stride in STRIDES], RATIOS, rule)


def maps(seed: int, images: int = 1) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Objectness and deltas of three levels; double precision, so that no border is a matter of rounding."""
    rng = np.random.default_rng(seed)
    objectness = [torch.from_numpy(rng.normal(0, 3, (images, 3, *grid))) for grid in GRIDS]
    return objectness, [torch.from_numpy(rng.normal(0, 0.4, (images, 12, *grid))) for grid in GRIDS]


def loop_iou(a, b, one):
    width = min(a[2], b[2]) - max(a[0], b[0]) + one
    height = min(a[3], b[3]) - max(a[1], b[1]) + one
    inter = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b))
    return inter / (areas - inter) if areas > inter else 0.0


def loop_proposals(objectness, deltas, anchors, one, extent, config):
    """The boxes and logits of one image, best first."""
    found = []
    for scores, regression, level, grid in zip(objectness, deltas, anchors, GRIDS, strict=True):
        candidates = []
        for row in range(grid[0]):
            for column in range(grid[1]):
                for shape in range(3):
                    x1, y1, x2, y2 = level[(row * grid[1] + column) * 3 + shape].tolist()
                    dx, dy, dw, dh = regression[0, shape * 4 : shape * 4 + 4, row, column].tolist()
                    width, height = x2 - x1 + one, y2 - y1 + one
                    centre_x, centre_y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
                    width, height = width * np.exp(dw), height * np.exp(dh)
                    box = [
                        min(max(centre_x - width / 2, 0), extent[1] - one),
                        min(max(centre_y - height / 2, 0), extent[0] - one),
                        min(max(centre_x + width / 2 - one, 0), extent[1] - one),
                        min(max(centre_y + height / 2 - one, 0), extent[0] - one),
                    ]
                    candidates.append((float(scores[0, shape, row, column]), box))
        candidates.sort(key=lambda candidate: -candidate[0])
        kept = []
        for score, box in candidates[: config.candidates]:
            if min(box[2] - box[0], box[3] - box[1]) + one < config.smallest:
                continue
            if all(loop_iou(other, box, one) <= config.iou_threshold for _, other in kept):
                kept.append((score, box))
        found += kept
    found.sort(key=lambda candidate: -candidate[0])
    return found[: config.kept]


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([5, 40, 90]),
    st.sampled_from([10, 400]),
    st.sampled_from([0.0, 6.0]),
    st.sampled_from([0.3, 0.7]),
)
def test_proposals_are_the_published_procedure(seed, plus_one, candidates, kept, smallest, threshold):
    coding = BoxCoding(plus_one=plus_one)
    config = ProposalConfig(
        candidates=candidates, kept=kept, iou_threshold=threshold, smallest=smallest, rounds=40
    )
    objectness, deltas = maps(seed)
    anchors = [level.double() for level in anchors_of(coding)]
    extent = (SIZE[0] - 3, SIZE[1] - 5)
    got = proposals(objectness, deltas, anchors, coding=coding, extent=extent, config=config)
    expected = loop_proposals(objectness, deltas, anchors, 1.0 if plus_one else 0.0, extent, config)
    count = len(expected)
    assert got.settled.tolist() == [True]
    assert got.valid[0].tolist() == [slot < count for slot in range(got.valid.shape[1])]
    np.testing.assert_allclose(got.boxes[0, :count], np.array([box for _, box in expected]), atol=1e-9)
    logits = torch.tensor([score for score, _ in expected], dtype=torch.float64)
    torch.testing.assert_close(got.scores[0, :count], torch.sigmoid(logits))
    assert not got.boxes[0, count:].any()
    assert not got.scores[0, count:].any()


def test_images_of_a_batch_do_not_mix_and_have_their_own_extent():
    coding, config = BoxCoding(plus_one=True), ProposalConfig(candidates=50, kept=60)
    objectness, deltas = maps(4, images=3)
    extents = torch.tensor([[48.0, 64.0], [40.0, 50.0], [31.0, 64.0]], dtype=torch.float64)
    anchors = [level.double() for level in anchors_of(coding)]
    batched = proposals(objectness, deltas, anchors, coding=coding, extent=extents, config=config)
    for image in range(3):
        alone = proposals(
            [level[image, None] for level in objectness],
            [level[image, None] for level in deltas],
            anchors,
            coding=coding,
            extent=tuple(extents[image].tolist()),
            config=config,
        )
        for part, expected in zip(batched, alone, strict=True):
            torch.testing.assert_close(part[image, None], expected)


def adversarial() -> tuple[list[torch.Tensor], list[torch.Tensor], tuple[torch.Tensor]]:
    """One level whose anchors form a chain: each falls to the one before it if that one stands."""
    left = torch.arange(60, dtype=torch.float32) * 3.0
    anchors = torch.stack((left, torch.zeros(60), left + 10.0, torch.full((60,), 10.0)), dim=1)
    objectness = -torch.arange(60, dtype=torch.float32).reshape(1, 1, 1, 60) / 10
    return [objectness], [torch.zeros(1, 4, 1, 60)], (anchors,)


def test_a_chain_longer_than_the_rounds_is_reported():
    levels = adversarial()
    coding, extent = BoxCoding(), (20.0, 300.0)
    few = ProposalConfig(candidates=60, kept=60, iou_threshold=0.5, rounds=12)
    found = proposals(*levels, coding=coding, extent=extent, config=few)
    assert found.settled.tolist() == [False]
    for found in (
        proposals(*levels, coding=coding, extent=extent, config=few, exact=True),
        proposals(
            *levels,
            coding=coding,
            extent=extent,
            config=ProposalConfig(candidates=60, kept=60, iou_threshold=0.5, rounds=62),
        ),
    ):
        assert found.settled.tolist() == [True]
        assert found.valid.sum() == 30
        assert torch.equal(found.boxes[0, :30], levels[2][0][::2])


def test_maps_unfold_in_the_order_of_anchors():
    head = torch.arange(2 * 12 * 3 * 5).reshape(2, 12, 3, 5)
    rows = per_anchor(head, 4).reshape(2, 3, 5, 3, 4)
    for shape in range(3):
        assert torch.equal(rows[:, :, :, shape], head[:, shape * 4 : shape * 4 + 4].permute(0, 2, 3, 1))


@pytest.mark.slow
def test_nothing_that_is_exported_has_a_shape_made_of_data():
    coding, config = BoxCoding(plus_one=True), ProposalConfig(candidates=50, kept=60)

    class Head(torch.nn.Module):
        def forward(self, objectness, deltas):
            return proposals(
                objectness, deltas, anchors_of(coding), coding=coding, extent=(48.0, 64.0), config=config
            )

    objectness, deltas = ([level.float() for level in part] for part in maps(1))
    program = torch.export.export(Head(), (objectness, deltas))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not {
        name for name in called if "nonzero" in name or "aten.index.Tensor" in name or "gather" in name
    }
    torch.testing.assert_close(tuple(program.module()(objectness, deltas)), tuple(Head()(objectness, deltas)))


@pytest.mark.parametrize("wrong", [{"candidates": 4000}, {"kept": 0}, {"rounds": 1}, {"iou_threshold": 0.0}])
def test_counts_that_cannot_be_built_are_refused(wrong):
    with pytest.raises(ValueError, match=r"1\.\.3840|at least 2"):
        ProposalConfig(**wrong)


# ---------------------------------------------------------------- the stage


def stage_of(objectness: Divisor = Divisor.WHOLE_SAMPLE, box: Divisor = Divisor.SAMPLED) -> ProposalStage:
    torch.manual_seed(2)
    stage = ProposalStage(
        ProposalStageConfig(
            inputs=4,
            convolutions=1,
            strides=STRIDES,
            grids=tuple(GRIDS),
            anchor_sizes=tuple((2.0 * stride, 3.0 * stride) for stride in STRIDES),
            anchor_ratios=RATIOS,
            anchor_rule=AnchorRule.DETECTRON,
            coding=BoxCoding(plus_one=True),
            extent=SIZE,
            # More than the small image holds, so that the divisors differ.
            sampling=AnchorSampling(count=5000),
            beta=0.2,
            objectness_divisor=objectness,
            box_divisor=box,
        )
    )
    for layer in (stage.objectness, stage.deltas):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return stage


def levels_of(images: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(images, 4, *grid, generator=generator) for grid in GRIDS]


NOTHING = torch.zeros(0, 4)
OBJECTS = [
    Objects(torch.tensor([[8.0, 6, 25, 21], [30, 20, 55, 44]]), torch.tensor([1, 0]), NOTHING, NOTHING),
    Objects(NOTHING, torch.zeros(0, dtype=torch.int64), NOTHING, torch.tensor([[0.0, 0, 20, 47]])),
]


@pytest.mark.parametrize("objectness", list(Divisor))
@pytest.mark.parametrize("box", list(Divisor))
def test_the_loss_is_the_formula_anchor_by_anchor(objectness, box):
    stage = stage_of(objectness, box)
    maps = stage(levels_of())
    got = stage.loss(maps, OBJECTS)
    anchors, entropies, differences = torch.cat(stage.anchors), [], []
    for image, objects in enumerate(OBJECTS):
        labels = anchor_targets(
            anchors,
            objects.boxes,
            objects.crowd_boxes,
            coding=stage.config.coding,
            sampling=stage.config.sampling,
            extent=SIZE,
        )
        entropy, difference, count, place = torch.zeros(()), torch.zeros(()), 0, 0
        for scores, regression, (height, width) in zip(*maps, GRIDS, strict=True):
            for row, column, shape in np.ndindex(height, width, 6):
                label = int(labels.labels[place])
                if label != NEUTRAL:
                    count += 1
                    sign = 1 if label == FOREGROUND else -1
                    entropy = entropy - torch.nn.functional.logsigmoid(
                        sign * scores[image, shape, row, column]
                    )
                if label == FOREGROUND:
                    given = regression[image, 4 * shape : 4 * shape + 4, row, column]
                    error = (given - labels.deltas[place]).abs()
                    difference = difference + torch.where(error < 0.2, 2.5 * error**2, error - 0.1).sum()
                place += 1
        assert 0 < count < 5000
        entropies.append(entropy / (5000 if objectness is Divisor.WHOLE_SAMPLE else count))
        differences.append(difference / (5000 if box is Divisor.WHOLE_SAMPLE else count))
    assert float(differences[0].detach()) > 0.0 == float(differences[1].detach())
    torch.testing.assert_close(got[0], sum(entropies) / 2)
    torch.testing.assert_close(got[1], sum(differences) / 2)


def test_the_stage_proposes_from_its_own_anchors():
    stage, config = stage_of(), ProposalConfig(candidates=40, kept=30, rounds=40)
    with torch.no_grad():
        maps = stage(levels_of())
        found = stage.propose(maps, config)
        exact = stage.propose(maps, config, exact=True)
        wanted = proposals(
            *maps, stage.config.anchors(), coding=BoxCoding(plus_one=True), extent=SIZE, config=config
        )
    assert [level.shape[1] for level in maps.objectness] == [6, 6, 6]
    for part, again, expected in zip(found, exact, wanted, strict=True):
        assert torch.equal(part, expected)
        assert torch.equal(again, expected)
    for boxes, slots, valid in zip(found.of_images(), found.boxes, found.valid, strict=True):
        assert 0 < len(boxes) <= 30
        assert torch.equal(boxes, slots[: int(valid.sum())])


def test_anchors_are_no_part_of_a_checkpoint():
    assert {key.split(".")[0] for key in stage_of().state_dict()} == {"conv", "objectness", "deltas"}
