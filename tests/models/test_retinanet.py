"""RetinaNet against torchvision's procedure written out, and its losses against their formulas."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.checkpoints.upstream import import_checkpoint
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.families.layout import map_state
from edgewise.models.families.retinanet.config import (
    MICRO,
    R50_V1,
    BoxLoss,
    DecodingConfig,
    LogitRows,
    RetinanetConfig,
)
from edgewise.models.families.retinanet.decoding import detect
from edgewise.models.families.retinanet.losses import losses
from edgewise.models.families.retinanet.network import Predictions, Retinanet, level_anchors
from edgewise.runtime.frames.preprocessing import preprocess

from .published_keys import published_table

pytestmark = pytest.mark.usefixtures("one_thread")

Floats = NDArray[np.float64]
CATEGORY_RULE = msgspec.structs.replace(MICRO, class_count=80, logit_rows=LogitRows.CATEGORY_IDS)


def maps_of(config: RetinanetConfig, seed: int, images: int = 1) -> Predictions:
    """Raw maps of which about one pair in a hundred scores, nobody's rows never."""
    generator = torch.Generator().manual_seed(seed)
    logits, deltas = [], []
    for rows, columns in config.level_sizes:
        level = torch.randn(
            images, config.anchors_per_cell, config.row_count, rows, columns, generator=generator
        )
        level = 1.5 * level - 6.0
        nobodys = sorted(set(range(config.row_count)) - set(config.class_rows))
        level[:, :, nobodys] = -20.0
        logits.append(level.flatten(1, 2))
        deltas.append(
            0.3 * torch.randn(images, 4 * config.anchors_per_cell, rows, columns, generator=generator)
        )
    return Predictions(tuple(logits), tuple(deltas), config.class_rows)


# ---------------------------------------------------------------- torchvision, step by step


def published_anchors(config: RetinanetConfig) -> list[Floats]:
    """Row by row, column by column; in a cell ratio by ratio, size by size; corners rounded half to even."""
    levels = []
    for (rows, columns), sizes in zip(config.level_sizes, config.anchor_sizes, strict=True):
        cell = [
            (size / math.sqrt(ratio), size * math.sqrt(ratio))
            for ratio in config.anchor_ratios
            for size in sizes
        ]
        base = [
            [float(round(value)) for value in (-width / 2, -height / 2, width / 2, height / 2)]
            for width, height in cell
        ]
        down, across = config.input_size[0] // rows, config.input_size[1] // columns
        levels.append(
            np.array(
                [
                    [x1 + column * across, y1 + row * down, x2 + column * across, y2 + row * down]
                    for row in range(rows)
                    for column in range(columns)
                    for x1, y1, x2, y2 in base
                ]
            )
        )
    return levels


def decoded(deltas: Floats, anchor: Floats) -> list[float]:
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x = deltas[0] * width + anchor[0] + width / 2
    y = deltas[1] * height + anchor[1] + height / 2
    limit = math.log(1000 / 16)
    half_w, half_h = (
        math.exp(min(delta, limit)) * side / 2
        for delta, side in zip(deltas[2:], (width, height), strict=True)
    )
    return [x - half_w, y - half_h, x + half_w, y + half_h]


def published_detections(
    config: RetinanetConfig, predictions: Predictions, image: int
) -> list[tuple[float, int, list[float]]]:
    """(score, row of the logits, box) by falling score."""
    found: list[tuple[float, int, list[float]]] = []
    height, width = config.input_size
    for logits, deltas, anchors in zip(
        predictions.logits, predictions.deltas, published_anchors(config), strict=True
    ):
        rows, columns = logits.shape[-2:]
        scores = logits[image].reshape(-1, config.row_count, rows, columns).permute(2, 3, 0, 1).double()
        scores = torch.sigmoid(scores).reshape(-1).numpy()
        own = deltas[image].reshape(-1, 4, rows, columns).permute(2, 3, 0, 1).reshape(-1, 4).double().numpy()
        passing = np.flatnonzero(scores > config.decoding.score_threshold)
        best = passing[np.argsort(-scores[passing], kind="stable")][: config.decoding.candidates]
        for place in best.tolist():
            anchor, row = divmod(place, config.row_count)
            box = decoded(own[anchor], anchors[anchor])
            clipped = [
                min(max(value, 0.0), limit) for value, limit in zip(box, (width, height) * 2, strict=True)
            ]
            found.append((float(scores[place]), row, clipped))
    kept: list[tuple[float, int, list[float]]] = []
    for score, row, box in sorted(found, key=lambda one: -one[0]):
        if all(row != other or iou(box, rival) <= config.decoding.iou_threshold for _, other, rival in kept):
            kept.append((score, row, box))
    return kept[: config.decoding.slots]


def iou(first: list[float], second: list[float]) -> float:
    shared = 1.0
    for axis in (0, 1):
        low, high = max(first[axis], second[axis]), min(first[axis + 2], second[axis + 2])
        shared *= max(high - low, 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - shared
    return shared / union if union > 0 else 0.0


@pytest.mark.parametrize(
    ("config", "least"), [(MICRO, 8), (CATEGORY_RULE, 20)], ids=["behind-background", "category-ids"]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_deployed_boxes_are_torchvisions(config: RetinanetConfig, least: int, seed: int) -> None:
    predictions = maps_of(config, seed, images=2)
    found = detect(
        predictions.class_logits(),
        predictions.deltas,
        level_anchors(config),
        config.input_size,
        config.decoding,
    )
    for image in range(2):
        wanted = published_detections(config, predictions, image)
        assert len(wanted) >= least
        assert bool(found.settled[image])
        count = int((found.scores[image] > 0).sum())
        assert count == len(wanted)
        assert [config.class_rows[index] for index in found.classes[image, :count]] == [
            row for _, row, _ in wanted
        ]
        np.testing.assert_allclose(found.scores[image, :count], [score for score, _, _ in wanted], atol=1e-6)
        boxes = np.array([box for _, _, box in wanted])
        assert np.abs(found.boxes[image, :count].numpy() - boxes).max() < 0.01
        assert not found.boxes[image, count:].any()


def test_pairs_left_out_of_the_suppression_are_told() -> None:
    """They matter unless the last one taken does not score or better ones fill every slot."""
    predictions = maps_of(MICRO, 1)
    results = {}
    for suppressed, slots in ((150, 20), (12, 20), (12, 3)):
        decoding = msgspec.structs.replace(MICRO.decoding, suppressed=suppressed, slots=slots)
        results[suppressed, slots] = detect(
            predictions.class_logits(), predictions.deltas, level_anchors(MICRO), MICRO.input_size, decoding
        )
    assert [bool(found.settled[0]) for found in results.values()] == [True, False, True]
    assert torch.equal(results[12, 3].boxes[0], results[150, 20].boxes[0, :3])


def test_more_rounds_are_more_pairs_too() -> None:
    more = R50_V1.with_more_rounds().decoding
    assert (more.rounds, more.suppressed) == (48, 3000)
    assert R50_V1.with_more_rounds().with_more_rounds().decoding.suppressed == 3840


def test_the_published_canvas() -> None:
    """Coarse levels have a cell more than 800 / 64 and 800 / 128, so their anchors lie closer together."""
    assert R50_V1.level_sizes == ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
    assert R50_V1.strides == ((8, 8), (16, 16), (32, 32), (61, 64), (114, 122))
    assert R50_V1.anchor_count == 201_600
    small = msgspec.structs.replace(R50_V1, input_size=(192, 256))
    for ours, published in zip(level_anchors(small), published_anchors(small), strict=True):
        np.testing.assert_array_equal(ours.numpy(), published)


@pytest.mark.parametrize(
    ("frame", "inner"),
    [
        ((480, 640), (800, 1066)),
        ((427, 640), (800, 1199)),
        ((720, 1280), (749, 1333)),
        ((335, 500), (799, 1194)),
        ((640, 480), (800, 600)),
    ],
)
def test_the_published_resize(frame: tuple[int, int], inner: tuple[int, int]) -> None:
    """Sides are cut off, 335 x (800 / 335) to 799 as there; upright frames fit the canvas by their height."""
    spec = registry.find("retinanet-r50-v1").preprocess
    tensor, geometry = preprocess(spec, np.zeros((*frame, 3), np.uint8))
    corner = geometry.to_network(np.array([[frame[1], frame[0]]], np.float64))[0]
    np.testing.assert_allclose(corner, inner[::-1], atol=1e-6)
    outside = tensor[0, inner[0] :]
    assert tuple(tensor[0, 0, -1]) == (104, 116, 124)
    assert outside.size == 0 or (outside == (104, 116, 124)).all()


# ---------------------------------------------------------------- training


def targets() -> list[InstanceTargets]:
    """Two objects, one of them small; and an image without any."""
    boxes = torch.tensor([[10.0, 8, 42, 40], [60, 30, 67, 36]])
    some = InstanceTargets(boxes, torch.tensor([1, 2]), torch.zeros(2, 64, 96), torch.zeros(0, 4))
    none = InstanceTargets(boxes[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 64, 96), boxes[:0])
    return [some, none]


def written_out(config: RetinanetConfig, predictions: Predictions, form: BoxLoss) -> tuple[float, float]:
    """The two losses, anchor by anchor."""
    anchors = np.concatenate(published_anchors(config))
    of_class, of_box = 0.0, 0.0
    for image, truth in enumerate(targets()):
        logits, deltas = (
            np.concatenate(
                [
                    level[image]
                    .reshape(config.anchors_per_cell, width, -1)
                    .permute(2, 0, 1)
                    .reshape(-1, width)
                    for level in maps
                ]
            )
            for maps, width in ((predictions.logits, config.row_count), (predictions.deltas, 4))
        )
        ious = np.array([[iou(box, anchor) for anchor in anchors.tolist()] for box in truth.boxes.tolist()])
        focal, box_sum, foreground = 0.0, 0.0, 0
        for number, anchor in enumerate(anchors):
            best = ious[:, number].max() if len(ious) else 0.0
            forced = len(ious) > 0 and bool((ious[:, number] == ious.max(axis=1)).any()) and best > 0
            if 0.4 <= best < 0.5 and not forced:
                continue
            wanted = np.zeros(config.row_count)
            if best >= 0.5 or forced:
                foreground += 1
                index = int(ious[:, number].argmax())
                wanted[config.class_rows[int(truth.classes[index])]] = 1
                box_sum += box_term(deltas[number], anchor, truth.boxes[index].tolist(), form)
            p = 1 / (1 + np.exp(-logits[number].astype(np.float64)))
            right = np.where(wanted == 1, p, 1 - p)
            alpha = np.where(wanted == 1, 0.25, 0.75)
            focal += float((-alpha * (1 - right) ** 2 * np.log(right)).sum())
        of_class += focal / max(foreground, 1) / 2
        of_box += box_sum / max(foreground, 1) / 2
    return of_class, of_box


def box_term(deltas: Floats, anchor: Floats, box: list[float], form: BoxLoss) -> float:
    if form is BoxLoss.L1:
        width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
        wanted = [
            ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / width,
            ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / height,
            math.log((box[2] - box[0]) / width),
            math.log((box[3] - box[1]) / height),
        ]
        return float(np.abs(deltas - wanted).sum())
    found = decoded(deltas, anchor)
    overlap = iou(found, box)
    area = sum((one[2] - one[0]) * (one[3] - one[1]) for one in (found, box))
    union = area / (1 + overlap)
    hull = (max(found[2], box[2]) - min(found[0], box[0])) * (max(found[3], box[3]) - min(found[1], box[1]))
    return 1 - overlap + (hull - union) / hull


@pytest.mark.parametrize("form", list(BoxLoss))
def test_the_losses_are_the_published_ones(form: BoxLoss) -> None:
    config = msgspec.structs.replace(MICRO, losses=msgspec.structs.replace(MICRO.losses, box=form))
    predictions = maps_of(config, 3, images=2)
    found = losses(config, predictions, targets())
    of_class, of_box = written_out(config, predictions, form)
    assert float(found["class"]) == pytest.approx(of_class, rel=1e-4)
    assert float(found["box"]) == pytest.approx(of_box, rel=1e-4)


def test_frozen_parts_stay_as_they_are() -> None:
    config = msgspec.structs.replace(MICRO, freeze_batch_norm=True, frozen_stages=1, batch_norm_epsilon=0.0)
    network = Retinanet(config).train()
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms
    assert all(not norm.training and norm.eps == 0 and not norm.weight.requires_grad for norm in norms)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert not any(name.startswith(("backbone.conv1", "backbone.layers.0")) for name in trained)
    assert "backbone.layers.1.0.conv1.weight" in trained


# ---------------------------------------------------------------- published checkpoints


def named_by_torchvision(key: str) -> str:
    """The name that torchvision's classes give to what is called so here."""
    parts = key.split(".")
    if parts[0] == "backbone":
        rest = parts[1:]
        if rest[0] == "layers":
            rest = [f"layer{int(rest[1]) + 1}", *rest[2:]]
        return ".".join(["backbone", "body", *rest])
    if parts[0] == "fpn":
        blocks = {"lateral": "inner_blocks", "output": "layer_blocks"}[parts[1]]
        return f"backbone.fpn.{blocks}.{parts[2]}.0.{parts[3]}"
    if parts[0] == "coarse":
        return ".".join(["backbone.fpn.extra_blocks", *parts[1:]])
    head, output = {
        "class_tower": ("classification_head", "cls_logits"),
        "box_tower": ("regression_head", "bbox_reg"),
    }[parts[0]]
    rest = [output] if parts[1] == "output" else ["conv", *parts[2:-1]]
    return ".".join(["head", head, *rest, parts[-1]])


def of_the_v1_file(key: str) -> str:
    """The name of the same tensor in the file of 2020."""
    parts = key.split(".")
    if "inner_blocks" in parts or "layer_blocks" in parts:
        return ".".join([*parts[:4], parts[5]])
    if parts[0] == "head" and parts[2] == "conv":
        return ".".join([*parts[:3], str(2 * int(parts[3])), parts[5]])
    return key


@pytest.mark.parametrize("early", [False, True], ids=["today", "v1-file"])
def test_a_published_state_dict_comes_in_whole(tmp_path: Path, early: bool) -> None:
    config = msgspec.structs.replace(MICRO, head_groups=0 if early else 2, head_convolutions=2)
    entry = registry.find("retinanet-r50-v1").from_config(msgspec.to_builtins(config))
    torch.manual_seed(1)
    state = entry.build().state_dict()
    published = {named_by_torchvision(key): value for key, value in state.items()}
    if early:
        published = {of_the_v1_file(key): value for key, value in published.items()}
        published = {key: value for key, value in published.items() if "num_batches" not in key}
    torch.save(published, tmp_path / "published.pth")
    module, report = import_checkpoint(tmp_path / "published.pth", entry)
    assert ("v1 file" in report.layout) == early
    again = module.state_dict()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_the_names_are_those_of_the_published_files() -> None:
    for name in ("retinanet-r50-v1", "retinanet-r50-v2"):
        published = published_table(name)
        ours = {named_by_torchvision(key): shape for key, shape in shapes_of(name).items()}
        assert published.items() <= ours.items()
        assert all("num_batches_tracked" in key for key in ours.keys() - published.keys())
    early = {
        of_the_v1_file(key): torch.empty(shape, device="meta")
        for key, shape in published_table("retinanet-r50-v1").items()
    }
    counted = {key: shape for key, shape in shapes_of("retinanet-r50-v1").items() if "num_batches" not in key}
    fitting = [
        layout.name
        for layout in registry.find("retinanet-r50-v1").layouts
        if not map_state(layout, early, counted).problems
    ]
    assert fitting == ["retinanet (torchvision's v1 file)"]


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in registry.find(name).build().state_dict().items()}


def test_the_shipped_file_is_small_and_says_how_it_came_about() -> None:
    path = Path(edgewise.models.__file__).parent / "pretrained" / "retinanet-tiny.safetensors"
    assert path.stat().st_size <= 1_000_000
    meta, tensors = load_checkpoint(path)
    assert {value.dtype for value in tensors.values()} == {torch.float16, torch.int64}
    assert meta.training_command.startswith("edgewise train retinanet-tiny --seed 1")
    assert meta.metrics["box_ap"] >= 0.5
    assert meta.entry().config == registry.find("retinanet-tiny").config


def test_rows_of_the_class_logits() -> None:
    """Published: the category id. Of classes of one's own: behind the background."""
    assert (R50_V1.row_count, R50_V1.class_rows) == (91, tuple(label.id for label in COCO_THINGS))
    own = msgspec.structs.replace(R50_V1, class_count=3)
    assert (own.row_count, own.class_rows) == (4, (1, 2, 3))
    assert DecodingConfig().slots == 300
