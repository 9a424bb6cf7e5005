"""YOLACT's network, priors, matching and losses."""

import math

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgewise.models import registry
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.yolact import config
from edgewise.models.families.yolact.config import R50, TINY, MatchingConfig, YolactConfig
from edgewise.models.families.yolact.losses import class_loss, losses
from edgewise.models.families.yolact.network import Yolact
from edgewise.models.families.yolact.positive_masks import crop_windows
from edgewise.models.families.yolact.priors import priors
from edgewise.models.families.yolact.targets import NEUTRAL, match
from edgewise.models.layers import boxes as box_ops

pytestmark = pytest.mark.usefixtures("one_thread")

MICRO = msgspec.structs.replace(config.MICRO, input_size=(64, 64))


def example(seed: int, count: int, size: int = 64, classes: int = 3) -> InstanceTargets:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, size - 24, (count, 2))
    corners = np.concatenate([low, low + rng.integers(8, 24, (count, 2))], axis=1)
    masks = np.zeros((count, size, size), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = True
        mask[y1 : (y1 + y2) // 2, x1 : (x1 + x2) // 2] = False
    return InstanceTargets(
        torch.tensor(corners, dtype=torch.float32).reshape(count, 4),
        torch.tensor(rng.integers(0, classes, count)),
        torch.from_numpy(masks),
        torch.zeros(0, 4),
    )


@pytest.mark.parametrize(
    ("size", "levels", "count"),
    [
        (550, (69, 35, 18, 9, 5), 19248),
        (400, (50, 25, 13, 7, 4), 10077),
        (700, (88, 44, 22, 11, 6), 30963),
    ],
)
def test_levels_and_prior_counts_of_the_paper(size, levels, count):
    config = msgspec.structs.replace(R50, input_size=(size, size))
    assert config.level_sizes == tuple((level, level) for level in levels)
    assert config.prior_count == len(priors(config)) == count
    assert config.prototype_size == (2 * levels[0], 2 * levels[0])


def test_published_priors_are_squares_in_row_order():
    table = priors(R50)
    first = [(scale / 550) for scale in (24, 24 / math.sqrt(2), 24 * math.sqrt(2))]
    for row, side in enumerate(first):
        torch.testing.assert_close(table[row], torch.tensor([0.5 / 69, 0.5 / 69, side, side]))
    # The fourth is the next cell to the right; one row of cells later, the next one down.
    torch.testing.assert_close(table[3, :2], torch.tensor([1.5 / 69, 0.5 / 69]))
    torch.testing.assert_close(table[3 * 69, :2], torch.tensor([0.5 / 69, 1.5 / 69]))
    torch.testing.assert_close(table[-1], torch.tensor([4.5 / 5, 4.5 / 5, *[384 * math.sqrt(2) / 550] * 2]))


def test_true_anchors_keep_their_area():
    shapes = priors(TINY)[: TINY.anchors_per_cell, 2:] * 192
    scales = torch.tensor([15.0, 15, 15, 23, 23, 23])
    torch.testing.assert_close(shapes.prod(dim=1).sqrt(), scales)
    torch.testing.assert_close(shapes[:3, 0] / shapes[:3, 1], torch.tensor([1.0, 0.5, 2.0]))


def test_predictions_line_up_with_the_priors():
    """A head that reports each cell's position must report it in the order of the priors."""
    torch.manual_seed(0)
    network = Yolact(MICRO).eval()
    out = network(torch.randn(2, 3, 64, 64))
    count = MICRO.prior_count
    assert out.loc.shape == (2, count, 4)
    assert out.conf.shape == (2, count, 4)
    assert out.coefficients.shape == (2, count, 5)
    assert out.prototypes.shape == (2, 5, *MICRO.prototype_size)
    assert out.semantic is None
    assert float(out.prototypes.detach().min()) == 0.0
    head, level = network.prediction_layers[0], torch.randn(1, 8, 3, 2)
    loc, conf, _ = head(level)
    raw = head.bbox_layer(head.upfeature(level))
    for row in range(3):
        for column in range(2):
            for anchor in range(6):
                index = (row * 2 + column) * 6 + anchor
                torch.testing.assert_close(loc[0, index], raw[0, anchor * 4 : anchor * 4 + 4, row, column])
    assert conf.shape == (1, 36, 4)


def test_frozen_batch_norm_keeps_its_statistics():
    network = Yolact(msgspec.structs.replace(MICRO, freeze_batch_norm=True)).train()
    before = network.backbone.bn1.running_mean.clone()
    network(torch.randn(2, 3, 64, 64) + 3)
    assert torch.equal(before, network.backbone.bn1.running_mean)
    assert not network.backbone.bn1.weight.requires_grad
    assert network.fpn.lat_layers[0].weight.requires_grad


def test_tiny_is_small_enough_to_ship():
    assert sum(p.numel() for p in registry.find("yolact-tiny").build().parameters()) < 720_000


# ---------------------------------------------------------------- matching

GRID = torch.tensor([[x, 0.5, 0.2, 0.2] for x in (0.1, 0.3, 0.5, 0.7, 0.9)])
NO_CROWD = torch.zeros(0, 4)


def box_at(x: float) -> list[float]:
    return [x - 0.1, 0.4, x + 0.1, 0.6]


def test_thresholds_of_the_matching():
    # IoU of equal boxes shifted by s of their width: (1 - s) / (1 + s); .5 at 1/3, .4 at 3/7.
    for shift, wanted in [(0.30, 3), (0.36, NEUTRAL), (0.46, 0)]:
        truth = torch.tensor([box_at(0.5), box_at(0.5 + 0.2 * shift)])
        # The first object takes prior 2 by force, so prior 2 is settled; a prior beside shows the rule.
        prior = torch.cat((GRID, torch.tensor([[0.5 + 0.4 * shift, 0.5, 0.2, 0.2]])))
        classes = torch.tensor([0, 2])
        matched = match(prior[5:], truth[1:], classes[1:], NO_CROWD, MatchingConfig())
        assert matched.classes.tolist() == [3], "its best prior is forced whatever the IoU"
        pair = torch.cat((prior[5:], torch.tensor([[0.5 + 0.2 * shift, 0.5, 0.2, 0.2]])))
        matched = match(pair, truth[1:], classes[1:], NO_CROWD, MatchingConfig())
        assert matched.classes.tolist() == [wanted, 3]


def test_two_objects_never_share_their_forced_prior():
    truth = torch.tensor([box_at(0.52), box_at(0.50), [0.0, 0.0, 0.01, 0.01]])
    matched = match(GRID, truth, torch.tensor([0, 1, 2]), NO_CROWD, MatchingConfig())
    assert int(matched.classes[2]) == 2, "the exact fit has the contested prior"
    assert matched.objects[matched.classes > 0].unique().tolist() == [0, 1, 2]
    assert int((matched.classes > 0).sum()) == 3


def test_forced_priors_follow_the_global_greedy_order():
    rng = np.random.default_rng(0)
    anchors = torch.tensor(np.concatenate([rng.uniform(0, 1, (40, 2)), rng.uniform(0.1, 0.3, (40, 2))], 1))
    truth = box_ops.corners_from_centres(anchors[:12] + 0.02)
    matched = match(anchors, truth, torch.arange(12), NO_CROWD, MatchingConfig())
    ious = box_ops.iou(truth, box_ops.corners_from_centres(anchors)).numpy().copy()
    for _ in range(12):
        index, prior = np.unravel_index(ious.argmax(), ious.shape)
        assert int(matched.objects[prior]) == index
        assert int(matched.classes[prior]) == index + 1
        ious[index], ious[:, prior] = -1, -1


def test_crowds_silence_background_only():
    truth, crowd = torch.tensor([box_at(0.3)]), torch.tensor([[0.0, 0.0, 0.6, 1.0]])
    matched = match(GRID, truth, torch.tensor([1]), crowd, MatchingConfig())
    assert matched.classes.tolist() == [NEUTRAL, 2, NEUTRAL, 0, 0]
    matched = match(GRID, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), crowd, MatchingConfig())
    assert matched.classes.tolist() == [NEUTRAL, NEUTRAL, NEUTRAL, 0, 0]


def test_regression_targets_decode_to_the_object():
    truth = torch.tensor([box_at(0.31), box_at(0.72)])
    matched = match(GRID, truth, torch.tensor([0, 1]), NO_CROWD, MatchingConfig())
    decoded = box_ops.decode(matched.loc, GRID)
    for prior in torch.nonzero(matched.classes > 0).flatten():
        torch.testing.assert_close(decoded[prior], truth[matched.objects[prior]])


# ---------------------------------------------------------------- losses


def slow_losses(config: YolactConfig, table: torch.Tensor, out, targets) -> dict[str, float]:
    """The paper's losses, one prior at a time."""
    size = config.input_size[0]
    sums = {"box": 0.0, "class": 0.0, "mask": 0.0, "semantic": 0.0}
    positives = 0
    for n, truth in enumerate(targets):
        matched = match(table, truth.boxes / size, truth.classes, truth.crowd_boxes / size, config.matching)
        chosen = torch.nonzero(matched.classes > 0).flatten().tolist()
        positives += len(chosen)
        hardness = {
            p: float(torch.logsumexp(out.conf[n, p], 0) - out.conf[n, p, 0])
            for p in range(len(table))
            if int(matched.classes[p]) == 0
        }
        hardest = sorted(hardness, key=hardness.__getitem__, reverse=True)[: 3 * len(chosen)]
        for p in chosen + hardest:
            sums["class"] -= float(F.log_softmax(out.conf[n, p], 0)[matched.classes[p]])
        height, width = out.prototypes.shape[-2:]
        for p in chosen:
            difference = (out.loc[n, p] - matched.loc[p]).abs()
            sums["box"] += 1.5 * float(torch.where(difference < 1, difference**2 / 2, difference - 0.5).sum())
            obj = int(matched.objects[p])
            mask = torch.sigmoid(torch.einsum("k,khw->hw", out.coefficients[n, p], out.prototypes[n]))
            wanted = F.interpolate(truth.masks[obj, None, None].float(), (height, width), mode="bilinear")
            wanted = (wanted[0, 0] > 0.5).float()
            x1, y1, x2, y2 = (truth.boxes[obj] / size * width).tolist()
            entropy = 0.0
            for row in range(height):
                for column in range(width):
                    if x1 - 1 <= column < x2 + 1 and y1 - 1 <= row < y2 + 1:
                        q = float(mask[row, column])
                        entropy -= math.log(q) if wanted[row, column] else math.log1p(-q)
            # area normalisation times (mh * mw), weight 6.125 / (mh * mw)
            sums["mask"] += 6.125 * entropy / ((x2 - x1) * (y2 - y1))
        maps = torch.zeros_like(out.semantic[n])
        for obj, label in enumerate(truth.classes.tolist()):
            small = F.interpolate(truth.masks[obj, None, None].float(), maps.shape[1:], mode="bilinear")
            maps[label] = torch.maximum(maps[label], (small[0, 0] > 0.5).float())
        q = torch.sigmoid(out.semantic[n])
        entropy = -(maps * q.log() + (1 - maps) * (1 - q).log()).sum()
        sums["semantic"] += float(entropy) / (maps.shape[1] * maps.shape[2]) / len(targets)
    return {key: value if key == "semantic" else value / positives for key, value in sums.items()}


def test_losses_agree_with_the_formulas():
    torch.manual_seed(0)
    network = Yolact(MICRO).train()
    targets = [example(1, 2), example(2, 0), example(3, 3)]
    with torch.no_grad():
        out = network(torch.randn(3, 3, 64, 64))
        got = losses(MICRO, network.priors, out, targets)
        wanted = slow_losses(MICRO, network.priors, out, targets)
    for key, value in wanted.items():
        assert float(got[key]) == pytest.approx(value, rel=1e-4), key


def test_images_with_nothing_give_finite_losses_and_gradients():
    entry = registry.find("yolact-tiny").from_config(msgspec.to_builtins(MICRO))
    torch.manual_seed(0)
    network = entry.build().train()
    terms = entry.loss(network, torch.randn(2, 3, 64, 64), [example(0, 0), example(1, 0)])
    assert [float(terms[key].detach()) for key in ("box", "class", "mask")] == [0.0, 0.0, 0.0]
    assert float(terms["semantic"].detach()) > 0
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_hard_negatives_are_limited_to_three_for_each_positive():
    conf = torch.zeros(1, 10, 3, requires_grad=True)
    wanted = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, NEUTRAL, NEUTRAL]])
    class_loss(conf, wanted, MICRO.losses).backward()
    touched = conf.grad.abs().sum(dim=-1)[0] > 0
    assert int(touched.sum()) == 4
    assert bool(touched[0])
    assert not bool(touched[8:].any())


def test_sampled_mask_positives_stand_for_all():
    torch.manual_seed(0)
    limited = msgspec.structs.replace(
        MICRO, losses=msgspec.structs.replace(MICRO.losses, mask_positives_limit=1)
    )
    network, truth = Yolact(MICRO).train(), [example(3, 3)]
    with torch.no_grad():
        out = network(torch.randn(1, 3, 64, 64))
        full = float(losses(MICRO, network.priors, out, truth)["mask"])
        draws = [float(losses(limited, network.priors, out, truth)["mask"]) for _ in range(60)]
    assert np.mean(draws) == pytest.approx(full, rel=0.15)
    assert np.std(draws) > 0


def test_crop_windows_widen_by_one_pixel():
    inside, areas = crop_windows(torch.tensor([[0.25, 0.5, 0.5, 0.75]]), (8, 8))
    rows, columns = torch.nonzero(inside[0], as_tuple=True)
    assert (int(columns.min()), int(columns.max())) == (1, 4)
    assert (int(rows.min()), int(rows.max())) == (3, 6)
    assert areas.tolist() == [4.0]


@pytest.mark.slow
def test_training_steps_descend():
    entry = registry.find("yolact-tiny").from_config(msgspec.to_builtins(MICRO))
    torch.manual_seed(0)
    network = entry.build().train()
    targets = [example(seed, 2) for seed in range(2)]
    images = torch.stack([item.masks.float().amax(dim=0) - 0.5 for item in targets])[:, None].expand(
        -1, 3, -1, -1
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    history = []
    for _ in range(40):
        total = sum(entry.loss(network, images, targets).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(float(total.detach()))
    assert np.mean(history[-5:]) < 0.5 * np.mean(history[:3])
