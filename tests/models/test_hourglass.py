"""Stacked Hourglass: network, published layouts, targets and loss."""

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.models import registry
from edgewise.models.checkpoints.upstream import import_checkpoint
from edgewise.models.data.labels import COCO_THINGS, MPII_PEOPLE
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.heatmap_targets import Centre, TargetConfig, target_heatmaps
from edgewise.models.families.hourglass.config import (
    MICRO,
    HourglassConfig,
    LossConfig,
    StackReduction,
    princeton,
)
from edgewise.models.families.hourglass.losses import losses
from edgewise.models.families.hourglass.network import Hourglass, Residual, StackedHourglass
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.system.errors import CheckpointError, ModelError

from .published_keys import published_table

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = {
    "hourglass-1": 3_586_960,
    "hourglass-2": 6_730_912,
    "hourglass-8": 25_594_624,
    "hourglass-2-princeton": 8_429_088,
    "hourglass-8-princeton": 32_819_328,
}


def published_state(name: str) -> dict[str, torch.Tensor]:
    """Every tensor filled with its own number, so that each can be told from all others."""
    table = published_table(name)
    kinds = (torch.int64 if key.endswith("num_batches_tracked") else torch.float32 for key in table)
    return {
        key: torch.full(shape, number, dtype=kind)
        for number, ((key, shape), kind) in enumerate(zip(table.items(), kinds, strict=True))
    }


def points(*rows: tuple[float, float, float]) -> KeypointTargets:
    return KeypointTargets(torch.tensor(rows, dtype=torch.float32))


def images(count: int, config: HourglassConfig = MICRO) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, *config.input_size, generator=generator) - 0.44


# ---------------------------------------------------------------- network


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameters_are_the_published_ones(name, count):
    with torch.device("meta"):
        module = registry.find(name).build()
    assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_a_checkpoint_from_before_the_stem_widened_early_builds_what_it_was_trained_as():
    entry = registry.find("hourglass-1")
    config = msgspec.to_builtins(entry.config)
    del config["widens_early"]
    with torch.device("meta"):
        module = entry.from_config(config).build()
    assert module.refine.projection is None
    assert sum(parameter.numel() for parameter in module.parameters()) == 3_426_448


def test_the_tiny_checkpoint_stays_under_three_megabytes():
    with torch.device("meta"):
        state = registry.find("hourglass-tiny").build().state_dict()
    assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) < 3_000_000


def test_every_stack_gives_heatmaps_at_a_quarter_of_the_size():
    module = StackedHourglass(MICRO).eval()
    assert [tuple(heatmaps.shape) for heatmaps in module(images(2))] == [(2, 3, 8, 12)] * 2


def test_a_stack_reads_the_heatmaps_of_the_one_before():
    torch.manual_seed(0)
    module = StackedHourglass(MICRO).eval()
    before = module(images(1))
    with torch.no_grad():
        module.stacks[0].heatmaps.bias += 1.0
    after = module(images(1))
    assert torch.allclose(after[0], before[0] + 1.0)
    assert not torch.allclose(after[1], before[1])


def test_an_hourglass_sees_everything_from_its_bottom():
    """Far further than its residual blocks reach at full resolution."""
    torch.manual_seed(0)
    config = msgspec.structs.replace(MICRO, depth=4, input_size=(256, 256))
    hourglass = Hourglass(config).eval()
    features = torch.rand(1, 8, 64, 64, requires_grad=True)
    hourglass(features)[0, :, 0, 0].sum().backward()
    reach = features.grad[0].abs().sum(dim=0) > 0
    assert reach[40:, 40:].any()
    skip = Hourglass(config).eval().levels[0].skip
    features.grad = None
    skip(features)[0, :, 0, 0].sum().backward()
    assert not (features.grad[0].abs().sum(dim=0) > 0)[2:].any()


def test_more_blocks_stand_behind_each_other():
    config = msgspec.structs.replace(MICRO, blocks=2)
    module = StackedHourglass(config).eval()
    assert len(module.stacks[0].residual) == len(module.stacks[0].hourglass.bottom) == 2
    assert module(images(1))[-1].shape == (1, 3, 8, 12)


def test_unused_projections_change_nothing_and_do_not_learn():
    torch.manual_seed(0)
    block = Residual(8, 8, unused_projection=True).eval()
    features = torch.rand(1, 8, 4, 4)
    before = block(features)
    torch.nn.init.constant_(block.projection.weight, 5.0)
    assert torch.equal(block(features), before)
    assert not any(parameter.requires_grad for parameter in block.projection.parameters())
    assert all(parameter.requires_grad for parameter in Residual(4, 8, True).parameters())


# ---------------------------------------------------------------- config and vocabulary


@pytest.mark.parametrize("size", [(256, 250), (32, 256), (0, 64)])
def test_sizes_that_cannot_be_halved_so_often_are_refused(size):
    with pytest.raises(ModelError, match=r"multiples of 64: an hourglass of depth 4|>= 1"):
        registry.find("hourglass-1").with_config(input_size=size)


def test_a_shallower_hourglass_takes_smaller_multiples():
    entry = registry.find("hourglass-1").with_config(depth=3, input_size=(96, 32))
    assert entry.config.heatmap_size == (24, 8)


def test_the_stem_needs_a_quarter_of_the_channels():
    with pytest.raises(ModelError, match="channels 10 must be a multiple of 4"):
        registry.find("hourglass-1").with_config(channels=10)


def test_the_keypoint_count_follows_the_vocabulary():
    entry = registry.find("hourglass-tiny")
    assert entry.vocabulary_size.keypoints == 17
    assert entry.fit(MPII_PEOPLE).vocabulary_size == MPII_PEOPLE.size


@pytest.mark.parametrize(
    "vocabulary", [Vocabulary(COCO_THINGS), Vocabulary(COCO_THINGS[:2], MPII_PEOPLE.keypoints)]
)
def test_vocabularies_without_one_figure_are_refused(vocabulary):
    with pytest.raises(ModelError, match="keypoints of one class"):
        registry.find("hourglass-tiny").fit(vocabulary)


def test_mpii_mirrors_left_and_right():
    layout = MPII_PEOPLE.keypoints
    pairs = {(layout.names[a], layout.names[b]) for a, b in layout.flip_pairs}
    assert all(a.split("_")[1] == b.split("_")[1] and a != b for a, b in pairs)
    assert len(pairs) == sum(name.startswith("left_") for name in layout.names) == 6
    assert {index for limb in layout.limbs for index in limb} == set(range(16))


# ---------------------------------------------------------------- published layouts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefix", "wrapped"),
    [
        ("hourglass-1", "", False),
        ("hourglass-2", "module.", True),
        ("hourglass-2-princeton", "", True),
    ],
)
def test_published_files_are_imported(tmp_path, name, prefix, wrapped):
    state = {prefix + key: tensor for key, tensor in published_state(name).items()}
    file = tmp_path / "published.pth"
    torch.save({"epoch": 3, "state_dict": state} if wrapped else state, file)
    module, report = import_checkpoint(file, registry.find(name))
    assert (report.parameters, report.dropped) == (PUBLISHED[name], ())
    assert report.vocabulary == MPII_PEOPLE
    assert len(module.state_dict()) == report.tensors == len(state)


@pytest.mark.parametrize(
    ("name", "key", "place"),
    [
        # Level 0 is the innermost of one form; the definition's levels.0 is the outermost.
        ("hourglass-2", "hg.1.hg.3.0.0.conv2.weight", "stacks.1.hourglass.levels.0.skip.0.conv2.weight"),
        ("hourglass-2", "hg.0.hg.0.2.0.bn1.bias", "stacks.0.hourglass.levels.3.up.0.bn1.bias"),
        ("hourglass-2", "hg.0.hg.0.3.0.conv1.bias", "stacks.0.hourglass.bottom.0.conv1.bias"),
        ("hourglass-2", "fc_.0.weight", "stacks.0.merge_features.weight"),
        ("hourglass-2", "fc.1.0.weight", "stacks.1.features.0.weight"),
        ("hourglass-2", "score_.0.bias", "stacks.0.merge_heatmaps.bias"),
        ("hourglass-2", "layer2.0.downsample.0.weight", "refine.projection.weight"),
        (
            "hourglass-2-princeton",
            "model.module.hgs.1.0.up1.conv2.conv.weight",
            "stacks.1.hourglass.levels.0.skip.0.conv2.weight",
        ),
        (
            "hourglass-2-princeton",
            "model.module.hgs.0.0.low2.low2.low2.low3.bn1.bias",
            "stacks.0.hourglass.levels.3.up.0.bn1.bias",
        ),
        (
            "hourglass-2-princeton",
            "model.module.hgs.0.0.low2.low2.low2.low2.skip_layer.conv.bias",
            "stacks.0.hourglass.bottom.0.projection.bias",
        ),
        (
            "hourglass-2-princeton",
            "model.module.hgs.0.0.low2.low1.conv3.conv.bias",
            "stacks.0.hourglass.levels.1.down.0.conv3.bias",
        ),
        ("hourglass-2-princeton", "model.module.pre.4.conv1.conv.weight", "widen_again.conv1.weight"),
        (
            "hourglass-2-princeton",
            "model.module.merge_preds.0.conv.conv.weight",
            "stacks.0.merge_heatmaps.weight",
        ),
    ],
)
def test_a_published_tensor_goes_to_its_place(name, key, place):
    layout = registry.find(name).layouts["princeton" in name]
    assert key in published_table(name)
    assert layout.target(key) == place


@pytest.mark.slow
def test_a_checkpoint_of_the_other_form_is_recognised(tmp_path):
    file = tmp_path / "published.pth"
    torch.save({"state_dict": published_state("hourglass-2-princeton")}, file)
    with pytest.raises(CheckpointError, match="pass --model hourglass-2-princeton"):
        import_checkpoint(file, registry.find("hourglass-2"))


# ---------------------------------------------------------------- targets


def slow_heatmap(x: float, y: float, size: tuple[int, int], config: TargetConfig) -> np.ndarray:
    """The Gaussian cell by cell; x and y in network pixels."""
    result = np.zeros(size)
    column, row = math.floor(x / 4), math.floor(y / 4)
    centred = config.centre is Centre.CELL
    centre_x, centre_y = (column + 0.5, row + 0.5) if centred else (x / 4, y / 4)
    for i in range(size[0]):
        for j in range(size[1]):
            if config.radius is not None and max(abs(j - column), abs(i - row)) > config.radius:
                continue
            square = (j + 0.5 - centre_x) ** 2 + (i + 0.5 - centre_y) ** 2
            result[i, j] = math.exp(-square / (2 * config.sigma**2))
    return result


coordinate = st.floats(-10, 60, width=32)
person = st.lists(st.tuples(coordinate, coordinate, st.sampled_from([0.0, 1.0, 2.0])), min_size=2, max_size=2)


@settings(max_examples=60, deadline=None)
@given(
    people=st.lists(person, min_size=1, max_size=3),
    sigma=st.sampled_from([0.7, 1.0, 2.0]),
    centre=st.sampled_from(Centre),
    radius=st.sampled_from([None, 1, 3, 4]),
)
def test_targets_are_those_of_the_rule(people, sigma, centre, radius):
    size, config = (8, 12), TargetConfig(sigma=sigma, centre=centre, radius=radius)
    maps, weights = target_heatmaps([points(*rows) for rows in people], size, (32, 48), config)
    assert maps.shape == (len(people), 2, *size)
    for index, rows in enumerate(people):
        for number, (x, y, visibility) in enumerate(rows):
            counts = visibility > 0 and 0 <= x < 48 and 0 <= y < 32
            assert weights[index, number] == float(counts)
            wanted = slow_heatmap(x, y, size, config) if counts else np.zeros(size)
            np.testing.assert_allclose(maps[index, number], wanted, atol=1e-5)


def test_the_published_target_is_a_square_patch_with_its_peak_on_the_cell():
    maps, _ = target_heatmaps([points((26.0, 18.5, 2))], (10, 12), (40, 48), TargetConfig())
    assert maps[0, 0, 4, 6] == 1.0
    assert maps[0, 0].nonzero().tolist() == [[i, j] for i in range(1, 8) for j in range(3, 10)]
    wide, _ = target_heatmaps([points((26.0, 18.5, 2))], (10, 12), (40, 48), princeton(2).targets)
    assert int((wide > 0).sum()) == 9 * 9


def test_a_subpixel_target_balances_on_the_point():
    config = TargetConfig(sigma=1.0, centre=Centre.SUBPIXEL, radius=None)
    maps, _ = target_heatmaps([points((51.7, 41.2, 1))], (24, 24), (96, 96), config)
    mass = maps[0, 0] / maps[0, 0].sum()
    centres = (torch.arange(24) + 0.5) * 4
    assert float((mass.sum(dim=0) * centres).sum()) == pytest.approx(51.7, abs=1e-3)
    assert float((mass.sum(dim=1) * centres).sum()) == pytest.approx(41.2, abs=1e-3)


def test_an_unlabelled_point_may_hold_anything():
    maps, weights = target_heatmaps([points((math.nan, math.inf, 0))], (8, 8), (32, 32), TargetConfig())
    assert torch.equal(maps, torch.zeros(1, 1, 8, 8))
    assert weights.item() == 0.0


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.int64)])
def test_targets_of_another_shape_are_refused(wrong):
    with pytest.raises(ValueError, match=r"points float32 \[k,3\]"):
        KeypointTargets(wrong)


# ---------------------------------------------------------------- loss


def test_the_loss_ignores_unlabelled_joints():
    torch.manual_seed(0)
    predicted = [torch.rand(1, 3, 8, 12, requires_grad=True) for _ in range(2)]
    terms = losses(MICRO, predicted, [points((10, 10, 2), (20, 20, 0), (99, 5, 2))])
    sum(terms.values()).backward()
    for heatmaps in predicted:
        assert heatmaps.grad[0, 0].abs().min() > 0
        assert not heatmaps.grad[0, 1:].any()


@pytest.mark.parametrize("reduction", StackReduction)
def test_the_loss_is_half_the_mean_squared_error_of_each_stack(reduction):
    torch.manual_seed(0)
    config = msgspec.structs.replace(MICRO, losses=LossConfig(weight=0.5, over_stacks=reduction))
    predicted = [torch.rand(2, 3, 8, 12) for _ in range(2)]
    people = [points((10, 10, 2), (20, 20, 1), (3, 5, 2)), points((1, 1, 2), (30, 9, 2), (40, 30, 1))]
    wanted, _ = target_heatmaps(people, (8, 12), (32, 48), config.targets)
    terms = losses(config, predicted, people)
    share = 0.5 if reduction is StackReduction.MEAN else 1.0
    for number, heatmaps in enumerate(predicted, start=1):
        error = float(((heatmaps - wanted) ** 2).mean())
        assert float(terms[f"stack_{number}"]) == pytest.approx(0.5 * share * error, rel=1e-5)


def test_a_perfect_prediction_has_no_loss():
    people = [points((10, 10, 2), (20, 20, 1), (3, 5, 2))]
    wanted, _ = target_heatmaps(people, MICRO.heatmap_size, MICRO.input_size, MICRO.targets)
    assert all(float(term) == 0.0 for term in losses(MICRO, [wanted, wanted], people).values())


@pytest.mark.slow
def test_a_micro_network_learns_where_a_bright_square_lies():
    """Definition, targets, loss and coordinates fit together: the peak comes to lie on the square."""
    torch.manual_seed(0)
    config = msgspec.structs.replace(MICRO, keypoint_count=1, stacks=1, channels=16, input_size=(64, 64))
    frames, people = [], []
    rng = np.random.default_rng(0)
    for _ in range(16):
        x, y = rng.integers(6, 58, 2)
        frame = np.zeros((3, 64, 64), np.float32)
        frame[:, y - 3 : y + 3, x - 3 : x + 3] = 1.0
        frames.append(frame)
        people.append(points((float(x), float(y), 2.0)))
    batch = torch.from_numpy(np.stack(frames))
    module = StackedHourglass(config).train()
    optimiser = torch.optim.Adam(module.parameters(), 5e-3)
    for _ in range(40):
        total = sum(losses(config, module(batch), people).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    with torch.no_grad():
        peaks = module(batch)[-1].flatten(2).argmax(dim=-1)[:, 0]
    found = torch.stack([(peaks % 16 + 0.5) * 4, (peaks // 16 + 0.5) * 4], dim=1)
    truth = torch.stack([person.points[0, :2] for person in people])
    assert float((found - truth).abs().max()) <= 4.0
