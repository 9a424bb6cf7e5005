"""The mask stage against its definition, one region at a time."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgewise.models.layers.two_stage.class_rows import ClassRows
from edgewise.models.layers.two_stage.mask_stage import MaskStage, MaskStageConfig, MaskTargets
from edgewise.models.layers.two_stage.region_pooling import RegionPooling

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, SIZE = 3, (64, 96)
ROWS = pytest.mark.parametrize(
    "rows",
    [
        ClassRows(classes=CLASSES, count=CLASSES + 1, first=1),
        ClassRows(classes=CLASSES, count=CLASSES, first=0),
    ],
    ids=["background", "classes-only"],
)
TARGETS = MaskTargets(plus_one=True, half_pixel=True, samples_per_bin=2, threshold=0.5)


def stage_of(rows: ClassRows) -> MaskStage:
    pooling = RegionPooling(
        strides=(4, 8),
        canonical_level=1,
        canonical_size=32.0,
        epsilon=1e-6,
        epsilon_inside=True,
        plus_one=True,
        half_pixel=False,
        samples_per_bin=2,
    )
    torch.manual_seed(1)
    return MaskStage(
        MaskStageConfig(
            inputs=4,
            pooling=pooling,
            bins=3,
            channels=8,
            convolutions=2,
            norm=False,
            rows=rows,
            targets=TARGETS,
        )
    )


def case(images: int = 2, count: int = 9):
    """Levels, regions, classes, and the image of each region."""
    generator = torch.Generator().manual_seed(5)
    levels = [torch.randn(images, 4, SIZE[0] // s, SIZE[1] // s, generator=generator) for s in (4, 8)]
    low = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 30.0])
    regions = torch.cat((low, low + 5 + torch.rand(count, 2, generator=generator) * 25), dim=1)
    classes = torch.randint(0, CLASSES, (count,), generator=generator)
    return levels, regions, classes, torch.arange(count) % images


@torch.no_grad()
@ROWS
def test_a_region_gives_the_map_of_its_class_from_its_image(rows):
    stage = stage_of(rows)
    levels, regions, classes, images = case()
    got = stage.logits(levels, regions, classes, images)
    assert got.shape == (9, stage.config.side, stage.config.side) == (9, 6, 6)
    for index in range(9):
        alone = [level[images[index], None] for level in levels]
        every = stage(stage.config.pooling.pool(alone, regions[index, None], 3))
        assert every.shape[1] == rows.count
        torch.testing.assert_close(got[index], every[0, rows.first + classes[index]])


@torch.no_grad()
@ROWS
def test_the_deployed_choice_is_the_trained_one(rows):
    stage = stage_of(rows)
    levels, regions, classes, images = case(images=1)
    deployed = stage.masks(levels, regions, classes)
    torch.testing.assert_close(deployed, stage.logits(levels, regions, classes, images))
    others = stage.masks(levels, regions, (classes + 1) % CLASSES)
    assert float((deployed - others).abs().amax(dim=(1, 2)).min()) > 1e-3


def discs(count: int) -> torch.Tensor:
    rows, columns = np.indices(SIZE)
    centres = [(20 + 9 * index, 25 + 14 * index) for index in range(count)]
    return torch.tensor(np.array([(rows - y) ** 2 / 150 + (columns - x) ** 2 / 300 < 1 for y, x in centres]))


@pytest.mark.parametrize("threshold", [0.5, None])
@pytest.mark.parametrize("plus_one", [True, False])
def test_a_target_is_the_mask_at_the_cells_of_its_region(plus_one, threshold):
    """Regions whose cells are blocks of two by two pixels: a cell is the share, or 1 from half on."""
    masks = discs(2)
    targets = MaskTargets(plus_one=plus_one, half_pixel=True, samples_per_bin=2, threshold=threshold)
    one = 1.0 if plus_one else 0.0
    regions = torch.tensor([[10.0, 8, 34, 32], [20, 12, 44, 36], [28, 16, 52, 40]])
    regions[:, 2:] -= one
    objects = torch.tensor([0, 1, 0])
    got = targets.read(masks, regions, objects, 12)
    assert 0.05 < float(got.mean()) < 0.95
    for read, (x1, y1, *_), item in zip(got, regions.int().tolist(), objects, strict=True):
        window = masks[item, y1 : y1 + 24, x1 : x1 + 24].float()
        share = F.avg_pool2d(window[None], 2)[0]
        torch.testing.assert_close(read, share if threshold is None else (share >= threshold).float())
    assert ((got > 0) & (got < 1)).any() == (threshold is None)


def test_the_loss_is_the_mean_over_all_cells_of_all_images():
    stage = stage_of(ClassRows(classes=CLASSES, count=CLASSES + 1, first=1))
    levels, regions, classes, images = case(count=5)
    images = torch.tensor([0, 0, 0, 1, 1])
    logits = stage.logits(levels, regions, classes, images)
    masks, objects = discs(2), torch.tensor([0, 1, 1, 0, 1])
    got = stage.loss(logits.split((3, 2)), [masks, masks], regions.split((3, 2)), objects.split((3, 2)))
    wanted = TARGETS.read(masks, regions, objects, 6)
    assert 0 < float(wanted.mean()) < 1
    probability = torch.sigmoid(logits)
    entropy = -torch.where(wanted > 0.5, probability.log(), (1 - probability).log())
    torch.testing.assert_close(got, entropy.mean())


def test_images_without_regions_add_nothing():
    stage = stage_of(ClassRows(classes=CLASSES, count=CLASSES + 1, first=1))
    levels, regions, classes, images = case(images=1, count=2)
    nobody = torch.zeros(0, dtype=torch.int64)
    empty = stage.logits(levels, regions[:0], classes[:0], images[:0])
    alone = stage.loss([empty], [discs(1)], [regions[:0]], [nobody])
    assert float(alone.detach()) == 0.0
    torch.nn.init.zeros_(stage.score.weight)
    torch.nn.init.zeros_(stage.score.bias)
    logits = stage.logits(levels, regions, classes, images)
    both = stage.loss(
        [logits, empty],
        [discs(1), torch.zeros(0, *SIZE)],
        [regions, regions[:0]],
        [torch.zeros(2, dtype=torch.int64), nobody],
    )
    assert float(both.detach()) == pytest.approx(math.log(2), rel=1e-6)
