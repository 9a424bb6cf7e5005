"""UPSNet's network, published layouts, anchors and losses."""

import math

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgewise.models import registry
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.labels import CITYSCAPES_PANOPTIC, COCO_PANOPTIC
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.upsnet.config import MICRO, R50_COCO, TINY, UpsnetConfig
from edgewise.models.families.upsnet.losses import IGNORED, Truth, _truth, losses, panoptic_truth
from edgewise.models.families.upsnet.network import Upsnet
from edgewise.models.families.upsnet.panoptic_head import paste
from edgewise.models.families.yolact.config import TINY as YOLACT_TINY
from edgewise.models.tasks.panoptic.targets import PanopticTargets
from edgewise.runtime.system.errors import ModelError

pytestmark = pytest.mark.usefixtures("one_thread")


def example(seed: int, count: int, config: UpsnetConfig = MICRO) -> PanopticTargets:
    """Blocks on a ground of two stuff classes; a strip at the top is not labelled."""
    rng = np.random.default_rng(seed)
    height, width = config.input_size
    low = rng.integers(4, (width - 34, height - 34), (count, 2))
    corners = np.concatenate([low, low + rng.integers(12, 30, (count, 2))], axis=1)
    classes = rng.integers(0, config.thing_count, count)
    masks = np.zeros((count, height, width), dtype=bool)
    semantic = np.full((height, width), config.thing_count)
    semantic[height // 2 :] += 1
    semantic[:3] = -1
    for mask, label, (x1, y1, x2, y2) in zip(masks, classes, corners, strict=True):
        masks[:, y1:y2, x1:x2] = False
        mask[y1:y2, x1:x2] = True
        semantic[y1:y2, x1:x2] = label
    instances = InstanceTargets(
        torch.tensor(corners, dtype=torch.float32).reshape(count, 4),
        torch.from_numpy(classes),
        torch.from_numpy(masks),
        torch.zeros(0, 4),
    )
    return PanopticTargets(instances, torch.from_numpy(semantic))


def seen(targets: list[PanopticTargets]) -> torch.Tensor:
    """Images in which the classes can be told apart: one brightness for each class and channel."""
    maps = torch.stack([item.semantic for item in targets]).float()
    return torch.stack([maps - 2, (maps == 1).float(), (maps == 3).float()], dim=1)


# ---------------------------------------------------------------- the published models


def test_published_keys_arrive_where_they_mean_the_same():
    (layout, *_) = registry.find("upsnet-r50-coco").layouts
    for published, ours in {
        "resnet_backbone.conv1.bn1.running_var": "backbone.bn1.running_var",
        "resnet_backbone.res4.layers.5.conv2.weight": "backbone.layers.2.5.conv2.weight",
        "resnet_backbone.res2.layers.0.downsample.1.bias": "backbone.layers.0.0.downsample.1.bias",
        "fpn.fpn_p2_1x1.weight": "fpn.lateral.0.weight",
        "fpn.fpn_p5.bias": "fpn.output.3.bias",
        "rpn.cls_score.weight": "proposal_head.objectness.weight",
        "rcnn.cls_score.weight": "box_head.cls_score.weight",
        "mask_branch.mask_conv4.0.bias": "mask_head.convolutions.3.bias",
        "fcn_head.fcn_subnet.conv.1.0.conv_offset.bias": "semantic_head.layers.1.conv_offset.bias",
    }.items():
        assert layout.target(published) == ours


def test_the_published_backbone_strides_in_its_first_convolution():
    with torch.device("meta"):
        block = registry.find("upsnet-r50-coco").build().backbone.layers[1][0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_published_anchors_have_the_legacy_sizes():
    wanted = [
        [(48, 24), (32, 32), (24, 48)],
        [(88, 48), (64, 64), (48, 96)],
        [(184, 96), (128, 128), (88, 176)],
        [(360, 176), (256, 256), (184, 368)],
        [(728, 368), (512, 512), (360, 720)],
    ]
    anchors = R50_COCO.proposal_stage.anchors()
    for level, stride, sizes in zip(anchors, (4, 8, 16, 32, 64), wanted, strict=True):
        extent = level[:3, 2:] - level[:3, :2] + 1
        assert [tuple(row) for row in extent.int().tolist()] == sizes
        assert torch.equal(level[3, 0] - level[0, 0], torch.tensor(float(stride)))
        assert torch.equal((level[:3, :2] + level[:3, 2:]) / 2, torch.full((3, 2), (stride - 1) / 2))
    assert sum(map(len, anchors)) == 3 * sum(map(math.prod, R50_COCO.level_sizes))


def test_class_lists_follow_the_published_channels():
    """Channels that the published transfer from COCO to Cityscapes names: stuff first, then things."""
    names = [label.name for label in (*COCO_PANOPTIC.stuff, *COCO_PANOPTIC.things)]
    channels = {20: "road", 43: "pavement", 49: "building", 51: "wall", 37: "fence", 36: "tree", 39: "sky"}
    channels |= {62: "traffic light", 53: "person", 55: "car", 60: "truck", 58: "bus", 59: "train"}
    for channel, name in channels.items():
        assert names[channel].startswith(name)
    assert str(COCO_PANOPTIC.size) == "80 things, 53 stuff"
    assert str(CITYSCAPES_PANOPTIC.size) == "8 things, 11 stuff"
    for vocabulary in (COCO_PANOPTIC, CITYSCAPES_PANOPTIC):
        for part in (vocabulary.things, vocabulary.stuff):
            assert [label.id for label in part] == sorted({label.id for label in part})


# ---------------------------------------------------------------- the family


def test_tiny_shares_its_backbone_and_is_small_enough_to_ship():
    assert TINY.backbone == YOLACT_TINY.backbone
    with torch.device("meta"):
        ours, theirs = registry.find("upsnet-tiny").build(), registry.find("yolact-tiny").build()
    shapes = [
        {key: value.shape for key, value in module.state_dict().items() if key.startswith("backbone.")}
        for module in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert sum(value.numel() * value.element_size() for value in ours.state_dict().values()) < 3e6


def test_tiny_reads_frames_as_the_network_whose_backbone_it_starts_from():
    frames = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    ours, theirs = (registry.find(name).normalise(frames) for name in ("upsnet-tiny", "yolact-tiny"))
    torch.testing.assert_close(ours, theirs)


def test_configs_fit_a_vocabulary():
    entry = registry.find("upsnet-tiny").fit(COCO_PANOPTIC)
    assert (entry.config.thing_count, entry.config.stuff_count) == (80, 53)
    assert entry.task == "panoptic"
    with pytest.raises(ModelError, match="things and stuff"):
        registry.find("upsnet-tiny").fit(Vocabulary(COCO_PANOPTIC.things))
    with pytest.raises(ModelError, match="things before the stuff"):
        registry.find("upsnet-tiny").fit(Vocabulary(COCO_PANOPTIC.classes[::-1]))


@pytest.mark.parametrize(
    "changes",
    [
        {"input_size": (100, 192)},
        {"thing_count": 0},
        {"anchors": {"scales": []}},
        {"semantic": {"channels": []}},
        {"decoding": {"score_threshold": 0.3}},
        {"decoding": {"panoptic_stride": 7}},
        {"decoding": {"slots": 4000}},
    ],
)
def test_configs_that_nothing_can_be_built_from_are_refused(changes):
    with pytest.raises(ModelError):
        registry.find("upsnet-tiny").with_config(**changes)


def test_outputs_have_the_documented_shapes():
    torch.manual_seed(0)
    out = Upsnet(MICRO).eval()(torch.randn(2, 3, 64, 96))
    assert [tuple(level.shape) for level in out.levels] == [
        (2, 8, 16, 24), (2, 8, 8, 12), (2, 8, 4, 6), (2, 8, 2, 3),
    ]  # fmt: skip
    assert [tuple(level.shape[1:]) for level in out.proposals.objectness][-1] == (6, 1, 2)
    cells = sum(map(math.prod, MICRO.level_sizes))
    assert sum(level[0].numel() for level in out.proposals.objectness) == MICRO.anchors_per_cell * cells
    assert out.scores.shape == (2, 5, 16, 24)


def test_frozen_parts_are_not_trained():
    config = msgspec.structs.replace(MICRO, freeze_batch_norm=True, frozen_stages=1)
    module = Upsnet(config).train()
    before = module.backbone.bn1.running_mean.clone()
    module(torch.randn(2, 3, 64, 96) + 3)
    assert torch.equal(before, module.backbone.bn1.running_mean)
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    assert {"backbone.conv1.weight", "backbone.layers.0.0.conv2.weight"} <= frozen
    assert "backbone.layers.1.0.bn2.weight" in frozen
    assert "backbone.layers.1.0.conv2.weight" not in frozen


# ---------------------------------------------------------------- losses

TERMS = {
    "objectness", "anchor_box", "class", "box", "mask", "semantic", "region_semantic", "panoptic",
}  # fmt: skip


def test_images_with_nothing_give_finite_losses_and_gradients():
    torch.manual_seed(0)
    module, targets = Upsnet(MICRO).train(), [example(0, 0), example(1, 0)]
    terms = losses(MICRO, module, seen(targets), targets)
    zero = ("anchor_box", "box", "mask", "region_semantic")
    assert [float(terms[key].detach()) for key in zero] == [0.0] * 4
    assert all(float(terms[key].detach()) > 0 for key in ("objectness", "class", "semantic", "panoptic"))
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_untrained_terms_are_those_of_a_guess():
    """With silent predictors every term has a closed form."""
    torch.manual_seed(0)
    module, targets = Upsnet(MICRO).train(), [example(4, 3), example(5, 2)]
    for layer in (
        module.proposal_head.objectness,
        module.box_head.cls_score,
        module.mask_head.score,
        module.semantic_head.score,
    ):
        torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        terms = losses(MICRO, module, seen(targets), targets)
    assert set(terms) == TERMS
    weights = MICRO.training
    assert float(terms["objectness"]) == pytest.approx(math.log(2), rel=1e-4)
    assert float(terms["class"]) == pytest.approx(math.log(4), rel=1e-4)
    assert float(terms["mask"]) == pytest.approx(math.log(2), rel=1e-4)
    assert float(terms["semantic"]) == pytest.approx(math.log(5) * weights.semantic_weight, rel=1e-4)
    assert float(terms["region_semantic"]) == pytest.approx(
        math.log(5) * weights.region_semantic_weight, rel=1e-4
    )
    # Two stuff channels, two of three (one of two) instances, the unknown.
    guess = (math.log(2 + 2 + 1) + math.log(2 + 1 + 1)) / 2
    assert float(terms["panoptic"]) == pytest.approx(guess * weights.panoptic_weight, rel=1e-4)


def test_classes_become_channels_with_stuff_first():
    target = example(2, 3)
    truth = _truth(MICRO, target)
    for index in range(MICRO.class_count):
        channel = index + 2 if index < 3 else index - 3
        assert torch.equal(truth.channels == channel, target.semantic == index)
    assert torch.equal(truth.channels == IGNORED, target.semantic < 0)
    # A block that fills columns 3..5 ends at 6 in corner coordinates and on 5 in inclusive ones.
    assert torch.equal(truth.objects.boxes[:, 2:], target.instances.boxes[:, 2:] - 1)


def test_the_panoptic_truth_names_kept_objects_and_calls_the_others_unknown():
    target = example(6, 4)
    truth, kept = _truth(MICRO, target), torch.tensor([1, 3])
    got = panoptic_truth(truth, kept, MICRO.stuff_count, 4)
    assert got.shape == (16, 24)
    for row in range(16):
        for column in range(24):
            pixel = (4 * row + 2, 4 * column + 2)
            owners = [index for index in range(4) if bool(truth.objects.masks[index][pixel])]
            channel = int(truth.channels[pixel])
            wanted = channel if 0 <= channel < 2 else IGNORED
            if owners:
                wanted = 2 + (kept.tolist().index(owners[0]) if owners[0] in kept else 2)
            assert int(got[row, column]) == wanted


def test_a_mask_read_in_its_box_and_pasted_back_is_itself():
    """Reading targets and pasting logits share one coordinate rule: no half-pixel drift between them."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    mask = ((rows - 30) ** 2 / 18**2 + (columns - 50) ** 2 / 31**2) < 1
    ys, xs = torch.nonzero(mask, as_tuple=True)
    box = torch.tensor([[xs.min(), ys.min(), xs.max(), ys.max()]], dtype=torch.float32)
    read = MICRO.mask_stage.targets.read(mask[None], box, torch.tensor([0]), 28)
    back = paste(read - 0.5, box, (64, 96), 1)[0] > 0
    assert int((back & mask).sum()) / int((back | mask).sum()) > 0.95
    for shift in (-1, 1):
        assert int((back ^ mask).sum()) < int((back.roll(shift, 1) ^ mask).sum())


def test_crowds_hold_no_background():
    """A crowd over the whole image leaves no anchor and no region to be taken as background."""
    torch.manual_seed(0)
    module, target = Upsnet(MICRO).train(), example(3, 0)
    everything = torch.tensor([[0.0, 0.0, 96.0, 64.0]])
    crowd = PanopticTargets(
        InstanceTargets(target.instances.boxes, target.instances.classes, target.instances.masks, everything),
        target.semantic,
    )
    with torch.no_grad():
        alone, crowded = (losses(MICRO, module, seen([target]), [item]) for item in (target, crowd))
    assert float(crowded["class"]) == 0.0
    assert float(crowded["objectness"]) < float(alone["objectness"])


def test_the_panoptic_term_is_the_published_formula():
    """One image, all boxes kept, against slices and torch's own resize."""
    config = msgspec.structs.replace(
        MICRO, training=msgspec.structs.replace(MICRO.training, kept_boxes=1.0, panoptic_weight=1.0)
    )
    torch.manual_seed(1)
    module, target = Upsnet(config).eval(), example(7, 3)
    torch.nn.init.normal_(module.mask_head.score.weight, std=0.3)
    truth: Truth = _truth(config, target)
    with torch.no_grad():
        features = module(seen([target]))
        got = float(losses(config, module, seen([target]), [target])["panoptic"])
        scores = features.scores[0]
        pooled = config.mask_stage.pooling.pool(features.levels, truth.objects.boxes, config.mask_bins)
        logits = module.mask_head(pooled)
    things, instances = [], []
    for index, (box, label) in enumerate(zip(truth.objects.boxes / 4, truth.objects.classes, strict=True)):
        x1, y1, x2, y2 = (int(value) for value in box)
        thing, pasted = torch.zeros(16, 24), torch.zeros(16, 24)
        window = slice(int(box[1]), int(torch.round(box[3])) + 1), slice(x1, int(torch.round(box[2])) + 1)
        thing[window] = scores[2 + label][window]
        pasted[y1 : y2 + 1, x1 : x2 + 1] = F.interpolate(
            logits[index, 1 + label][None, None], (y2 - y1 + 1, x2 - x1 + 1), mode="bilinear"
        )
        things.append(thing)
        instances.append(thing + pasted)
    unknown = scores[2:].amax(dim=0) - torch.stack(things).amax(dim=0)
    stack = torch.stack([*scores[:2], *instances, unknown])
    wanted = panoptic_truth(truth, torch.arange(3), 2, 4)
    entropy = F.cross_entropy(stack[None], wanted[None], ignore_index=IGNORED)
    assert got == pytest.approx(float(entropy), rel=1e-4)


@pytest.mark.slow
def test_training_steps_descend():
    torch.manual_seed(0)
    module, targets = Upsnet(MICRO).train(), [example(seed, 2) for seed in range(4)]
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        total = sum(losses(MICRO, module, seen(targets), targets).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(float(total.detach()))
    assert np.mean(history[-5:]) < 0.5 * np.mean(history[:3])
