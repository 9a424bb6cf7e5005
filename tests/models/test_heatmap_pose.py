"""SimpleBaseline, HRNet and HRNetV2 for faces: networks by their published keys, targets, loss, imports."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.checkpoints.upstream import import_checkpoint
from edgewise.models.data.labels import COCO_PEOPLE
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.heatmap_pose import hrnet, hrnet_face, simple_baseline
from edgewise.models.families.heatmap_pose.config import DARK, PUBLISHED, dark_targets, rounded_targets
from edgewise.models.families.heatmap_pose.pose import loss
from edgewise.models.families.heatmap_targets import target_heatmaps
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.contract.manifest import Provenance
from edgewise.runtime.system.errors import ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, MAP = (256, 192), (64, 48)
FAMILIES = [simple_baseline, hrnet, hrnet_face]


# ---------------------------------------------------------------- networks, step by step under their keys


class Steps:
    """Convolutions and normalisations of a state under published keys."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, x: Tensor, key: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{key}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{key}.bias"), stride, weight.shape[-1] // 2)

    def norm(self, x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    def conv_norm(self, x: Tensor, key: str, stride: int = 1) -> Tensor:
        """Of a Sequential: convolution 0, normalisation 1."""
        return self.norm(self.conv(x, f"{key}.0", stride), f"{key}.1")

    def bottleneck(self, x: Tensor, key: str, stride: int) -> Tensor:
        out = F.relu(self.norm(self.conv(x, f"{key}.conv1"), f"{key}.bn1"))
        out = F.relu(self.norm(self.conv(out, f"{key}.conv2", stride), f"{key}.bn2"))
        out = self.norm(self.conv(out, f"{key}.conv3"), f"{key}.bn3")
        beside = f"{key}.downsample"
        return F.relu(out + (self.conv_norm(x, beside, stride) if f"{beside}.0.weight" in self.state else x))

    def basic(self, x: Tensor, key: str) -> Tensor:
        out = F.relu(self.norm(self.conv(x, f"{key}.conv1"), f"{key}.bn1"))
        return F.relu(x + self.norm(self.conv(out, f"{key}.conv2"), f"{key}.bn2"))

    def simple_baseline(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x, "conv1", 2), "bn1")), 3, 2, 1)
        for stage in range(1, 5):
            x = self.bottleneck(x, f"layer{stage}.0", 1 if stage == 1 else 2)
        for layer in (0, 3, 6):
            x = F.conv_transpose2d(x, self.state[f"deconv_layers.{layer}.weight"], None, 2, 1)
            x = F.relu(self.norm(x, f"deconv_layers.{layer + 1}"))
        return self.conv(x, "final_layer")

    def hrnet(self, x: Tensor, modules: tuple[int, int, int], face: bool) -> Tensor:
        x = F.relu(self.norm(self.conv(x, "conv1", 2), "bn1"))
        x = F.relu(self.norm(self.conv(x, "conv2", 2), "bn2"))
        branches = [self.bottleneck(x, "layer1.0", 1)]
        for stage in (2, 3, 4):
            branches = self.transition(branches, f"transition{stage - 1}")
            for module in range(modules[stage - 2]):
                last = stage == 4 and module == modules[2] - 1 and not face
                branches = self.exchange(branches, f"stage{stage}.{module}", 1 if last else stage, face)
        if not face:
            return self.conv(branches[0], "final_layer")
        x = torch.cat([self.enlarged(branch, branches[0], face) for branch in branches], 1)
        return self.conv(F.relu(self.norm(self.conv(x, "head.0"), "head.1")), "head.3")

    def transition(self, branches: list[Tensor], key: str) -> list[Tensor]:
        kept = [
            F.relu(self.conv_norm(x, f"{key}.{i}")) if f"{key}.{i}.0.weight" in self.state else x
            for i, x in enumerate(branches)
        ]
        return [*kept, F.relu(self.conv_norm(branches[-1], f"{key}.{len(branches)}.0", 2))]

    def enlarged(self, x: Tensor, like: Tensor, bilinear: bool) -> Tensor:
        factor = like.shape[-1] // x.shape[-1]
        if bilinear:
            return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
        return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    def exchange(self, branches: list[Tensor], key: str, outputs: int, face: bool) -> list[Tensor]:
        along = [self.basic(x, f"{key}.branches.{i}.0") for i, x in enumerate(branches)]
        result = []
        for i in range(outputs):
            total = torch.zeros(())
            for j, x in enumerate(along):
                way = f"{key}.fuse_layers.{i}.{j}"
                if j > i:
                    x = self.enlarged(self.conv_norm(x, way), along[i], face)
                for step in range(i - j):
                    x = self.conv_norm(x, f"{way}.{step}", 2)
                    x = F.relu(x) if step < i - j - 1 else x
                total = total + x
            result.append(F.relu(total))
        return result


def published_keys(state: dict[str, Tensor], family: object) -> dict[str, Tensor]:
    """A module's state under the keys of the published files."""
    renamed = {}
    for key, value in state.items():
        if family is simple_baseline:
            key = key.replace("deconvolutions.", "deconv_layers.").replace("backbone.", "")
            for stage in range(4):
                key = (
                    key.replace(f"layers.{stage}.", f"layer{stage + 1}.", 1) if key[:7] == "layers." else key
                )
        head = "head." if family is hrnet_face else "final_layer."
        renamed[key.removeprefix("trunk.").replace("heatmaps.", head)] = value
    return renamed


def lively(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(2)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.FAMILY.name)
def test_a_network_takes_the_published_steps_and_comes_in_by_its_published_keys(family, tmp_path):
    """The definition, a file of its state under published names, and the steps written out above agree."""
    config = family.MICRO
    entry = ModelEntry("micro", family.FAMILY, config, registry.find("simple-baseline-tiny").recipe)
    module = lively(entry.build())
    published = published_keys(module.state_dict(), family)
    steps, images = Steps(published), torch.rand(2, 3, *config.input_size)
    with torch.inference_mode():
        if family is simple_baseline:
            wanted = steps.simple_baseline(images)
        else:
            wanted = steps.hrnet(images, config.trunk.modules, family is hrnet_face)
        torch.testing.assert_close(module(images), wanted, rtol=1e-4, atol=1e-6)
        file = tmp_path / "model_best.pth"
        best = {f"module.{key}": value for key, value in published.items()}
        torch.save({"epoch": 3, "state_dict": best, "perf": 0.7, "optimizer": {}}, file)
        imported, report = import_checkpoint(file, entry)
        torch.testing.assert_close(imported(images), wanted, rtol=1e-4, atol=1e-6)
    assert report.tensors == len(module.state_dict())
    assert report.vocabulary == entry.layouts[0].vocabulary


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.FAMILY.name)
def test_sizes_that_cannot_be_halved_so_often_are_refused(family):
    with pytest.raises(ModelError, match="multiples of 32"):
        ModelEntry("micro", family.FAMILY, family.MICRO, registry.find("hourglass-1").recipe).with_config(
            input_size=(64, 48)
        )


def test_simple_baseline_reads_bgr_with_the_constants_of_rgb():
    frame = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    constants = zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    bgr, rgb = ([*pixel] for pixel in ((10, 20, 30), (30, 20, 10)))
    mean_std = list(constants)
    for name, pixel in (("pose-resnet50-256x192", bgr), ("hrnet-w32-256x192", rgb), ("hrnet-w18-face", rgb)):
        wanted = [(value / 255 - mean) / std for value, (mean, std) in zip(pixel, mean_std, strict=True)]
        found = registry.find(name).normalise(frame)
        torch.testing.assert_close(found.flatten(), torch.tensor(wanted))


# ---------------------------------------------------------------- targets and loss, as the published loops


def pose_target(x: float, y: float, sigma: int) -> tuple[np.ndarray, float]:
    """Of a joint at pixel numbers x, y of the input: a patch about the rounded cell, written into the map."""
    target = np.zeros(MAP, np.float32)
    reach = sigma * 3
    mu_x, mu_y = int(x / 4 + 0.5), int(y / 4 + 0.5)
    left, top, right, bottom = mu_x - reach, mu_y - reach, mu_x + reach + 1, mu_y + reach + 1
    if left >= MAP[1] or top >= MAP[0] or right < 0 or bottom < 0:
        return target, 0.0
    numbers = np.arange(2 * reach + 1)
    patch = np.exp(-((numbers - reach) ** 2 + (numbers[:, None] - reach) ** 2) / (2 * sigma**2))
    for row in range(max(0, top), min(bottom, MAP[0])):
        for column in range(max(0, left), min(right, MAP[1])):
            target[row, column] = patch[row - top, column - left]
    return target, 1.0


def dark_target(x: float, y: float, sigma: int) -> tuple[np.ndarray, float]:
    """Of a joint at pixel numbers of the input: over the whole map, about the point in cells."""
    factor = (SIZE[1] - 1) / (MAP[1] - 1)
    cell_x = (x - (SIZE[1] - 1) / 2) / factor + (MAP[1] - 1) / 2
    cell_y = (y - (SIZE[0] - 1) / 2) / factor + (MAP[0] - 1) / 2
    columns, rows = np.arange(MAP[1]), np.arange(MAP[0])[:, None]
    return np.exp(-((columns - cell_x) ** 2 + (rows - cell_y) ** 2) / (2 * sigma**2)), 1.0


@pytest.mark.parametrize(
    ("rule", "conventions", "targets"),
    [(pose_target, PUBLISHED, rounded_targets), (dark_target, DARK, dark_targets)],
    ids=["rounded", "dark"],
)
@pytest.mark.parametrize("sigma", [2, 3])
def test_targets_are_the_published_ones(rule, conventions, targets, sigma):
    rng = np.random.default_rng(4)
    numbers = np.concatenate([rng.uniform(0, [191, 255], (30, 2)), [[0, 0], [191, 255], [190, 3], [2, 254]]])
    rows = np.concatenate([numbers + 0.5, np.full((len(numbers), 1), 2)], axis=1).astype(np.float32)
    points = KeypointTargets(torch.from_numpy(rows))
    maps, weights = target_heatmaps([points], MAP, SIZE, targets(sigma), conventions.cells)
    for index, (x, y) in enumerate(rows[:, :2].astype(np.float64) - 0.5):
        wanted, weight = rule(x, y, sigma)
        assert float(weights[0, index]) == weight
        np.testing.assert_allclose(maps[0, index].numpy(), wanted, atol=2e-5)


def test_points_without_a_label_or_far_beside_do_not_count():
    rows = torch.tensor(
        [[math.nan, 4.0, 0.0], [96.0, 120.0, 2.0], [192.0 + 4 * 6 + 2, 120.0, 2.0], [400, 9, 1]]
    )
    maps, weights = target_heatmaps([KeypointTargets(rows)], MAP, SIZE, rounded_targets(2), PUBLISHED.cells)
    assert weights.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert bool(torch.isfinite(maps).all())
    assert float(maps[0, 0].max()) == float(maps[0, 2].max()) == 0.0


def test_the_loss_is_half_the_mean_square_over_joints():
    config = msgspec.structs.replace(hrnet.MICRO, input_size=(64, 64))
    rng = np.random.default_rng(1)
    targets = []
    for visible in ([2, 0, 1], [1, 1, 0]):
        rows = np.concatenate([rng.uniform(4, 60, (3, 2)), np.array(visible)[:, None]], axis=1)
        targets.append(KeypointTargets(torch.from_numpy(rows.astype(np.float32))))
    found = torch.rand(2, 3, 16, 16)
    wanted, _ = target_heatmaps(targets, (16, 16), (64, 64), config.targets, config.conventions.cells)
    visible = torch.tensor([[1.0, 0, 1], [1, 1, 0]])
    total = 0.0
    for joint in range(3):
        weight = visible[:, joint, None, None]
        total += 0.5 * float(((found[:, joint] * weight - wanted[:, joint] * weight) ** 2).mean())
    module = torch.nn.Module()
    module.forward = lambda images: found
    terms = loss(config, module, torch.zeros(2, 3, 64, 64), targets)
    assert float(terms["heatmaps"]) == pytest.approx(total / 3, rel=1e-5)


# ---------------------------------------------------------------- entries


def test_the_same_keys_come_with_two_conventions():
    plain, dark = (registry.find(name) for name in ("hrnet-w32-256x192", "hrnet-w32-256x192-dark"))
    assert plain.layouts == dark.layouts
    specs = [entry.manifest(COCO_PEOPLE, Provenance(definition="test")) for entry in (plain, dark)]
    assert specs[0].graphs == specs[1].graphs
    assert [spec.postprocess.flip_shift for spec in specs] == [True, False]
    assert (
        len({spec.postprocess.cells for spec in specs})
        == len({spec.preprocess.corners for spec in specs})
        == 2
    )


def test_the_shipped_file_is_small_and_says_how_it_came_about():
    path = Path(edgewise.models.__file__).parent / "pretrained" / "simple-baseline-tiny.safetensors"
    assert path.stat().st_size <= 1_000_000
    meta, _ = load_checkpoint(path)
    assert meta.training_command.startswith("edgewise train simple-baseline-tiny --seed ")
    assert meta.metrics["pck"] >= 0.97
    entry = registry.find("simple-baseline-tiny")
    assert meta.entry().config == entry.config
    assert meta.vocabulary.size == entry.vocabulary_size
