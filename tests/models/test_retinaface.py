"""RetinaFace against its published procedure written out, and its losses against their formulas."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.retinaface.config import (
    MICRO,
    MNET025,
    DecodingConfig,
    MatchingConfig,
    RetinafaceConfig,
)
from edgewise.models.families.retinaface.deploy import RetinafaceDeploy, detect
from edgewise.models.families.retinaface.losses import class_loss, encode_points, losses, match
from edgewise.models.families.retinaface.network import Predictions, Retinaface, priors

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = msgspec.structs.replace(
    MICRO, point_count=5, prior_sizes=((8, 16), (24, 32), (48, 64)), matching=MatchingConfig()
)


def published_priors(config: RetinafaceConfig) -> np.ndarray:
    """Centre form as shares of the picture, in Python's floats."""
    height, width = config.input_size
    found = []
    for step, sizes in zip((8, 16, 32), config.prior_sizes, strict=True):
        for row in range(math.ceil(height / step)):
            for column in range(math.ceil(width / step)):
                for size in sizes:
                    centre = (column + 0.5) * step / width, (row + 0.5) * step / height
                    found.append((*centre, size / width, size / height))
    return np.array(found)


def test_priors_are_the_published_ones() -> None:
    scale = np.array(MNET025.input_size[::-1] * 2)
    np.testing.assert_allclose(priors(MNET025).numpy(), published_priors(MNET025) * scale, rtol=1e-6)
    assert len(priors(MNET025)) == MNET025.prior_count == 16_800


def rows_to_maps(values: np.ndarray, config: RetinafaceConfig) -> tuple[torch.Tensor, ...]:
    """Rows [P, D] in the order of the priors as the maps [1, A * D, h, w] that a head would give."""
    maps, start = [], 0
    for rows, columns in config.level_sizes:
        count = rows * columns * config.priors_per_cell
        level = values[start : start + count].reshape(rows, columns, -1)
        maps.append(torch.from_numpy(level.transpose(2, 0, 1)[None].copy()).float())
        start += count
    return tuple(maps)


def random_heads(config: RetinafaceConfig, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = config.prior_count
    return (
        rng.normal(size=(count, 2)).astype(np.float32) * 2,
        rng.normal(size=(count, 4)).astype(np.float32),
        rng.normal(size=(count, 10)).astype(np.float32),
    )


def published_faces(
    config: RetinafaceConfig, heads: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Softmax, decoding, threshold, top, sequential suppression with inclusive corners, top."""
    logits, deltas, offsets = (head.astype(np.float64) for head in heads)
    own, scale = published_priors(config), np.array(config.input_size[::-1], np.float64)
    scores = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    centres = own[:, :2] + deltas[:, :2] * 0.1 * own[:, 2:]
    sides = own[:, 2:] * np.exp(deltas[:, 2:] * 0.2)
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1) * np.tile(scale, 2)
    points = own[:, None, :2] + offsets.reshape(-1, 5, 2) * 0.1 * own[:, None, 2:]
    kept = np.flatnonzero(scores > config.decoding.score_threshold)
    order = kept[np.argsort(-scores[kept], kind="stable")]
    survivors: list[int] = []
    for one in order:
        x1, y1, x2, y2 = boxes[one]
        suppressed = False
        for other in survivors:
            a1, b1, a2, b2 = boxes[other]
            wide = max(0.0, min(x2, a2) - max(x1, a1) + 1)
            high = max(0.0, min(y2, b2) - max(y1, b1) + 1)
            areas = (x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1)
            suppressed |= wide * high / (areas - wide * high) > config.decoding.iou_threshold
        if not suppressed:
            survivors.append(int(one))
    chosen = survivors[: config.decoding.slots]
    return boxes[chosen], scores[chosen], points[chosen] * scale


def test_decoding_is_the_published_procedure() -> None:
    everything = DecodingConfig(candidates=SMALL.prior_count, slots=60, rounds=40)
    config = msgspec.structs.replace(SMALL, decoding=everything)
    heads = random_heads(config, 4)
    boxes, scores, points = published_faces(config, heads)
    predictions = Predictions(*(rows_to_maps(head, config) for head in heads))
    found = detect(predictions, priors(config), config.decoding, 5)
    assert bool(found[3])
    count = len(scores)
    assert 20 < count <= 60
    for mine, theirs in zip(found[:3], (boxes, scores, points), strict=True):
        np.testing.assert_allclose(mine[0, :count].numpy(), theirs, rtol=1e-5, atol=1e-5)
        assert not mine[0, count:].any()


def test_candidates_that_are_left_out_are_told() -> None:
    few = msgspec.structs.replace(SMALL, decoding=DecodingConfig(candidates=20, slots=40, rounds=12))
    predictions = Predictions(*(rows_to_maps(head, few) for head in random_heads(few, 4)))
    assert not bool(detect(predictions, priors(few), few.decoding, 5)[3])


def targets(boxes: list[list[float]], labelled: list[bool]) -> InstanceTargets:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    shares = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    places = corners[:, None, :2] + shares * (corners[:, None, 2:] - corners[:, None, :2])
    seen = torch.tensor(labelled).reshape(-1, 1, 1).expand(count, 5, 1).float() * 2
    return InstanceTargets(
        corners,
        torch.zeros(count, dtype=torch.int64),
        torch.zeros(count, 1, 1, dtype=torch.bool),
        torch.zeros(0, 4),
        torch.cat([places, seen], dim=2),
    )


FACES = targets(
    [[10, 10, 30, 34], [40, 8, 52, 20], [12, 12, 31, 33], [60, 40, 60.5, 60]], [True, False, True, True]
)


def published_match(truth: InstanceTargets, config: RetinafaceConfig) -> tuple[np.ndarray, np.ndarray]:
    """Positive [P] and the face of each prior [P], by loops over faces and priors."""
    height, width = config.input_size
    own = published_priors(config) * (width, height, width, height)
    faces = truth.boxes.double().numpy()
    overlap = np.zeros((len(faces), len(own)))
    for face, (x1, y1, x2, y2) in enumerate(faces):
        for prior, (cx, cy, w, h) in enumerate(own):
            wide = max(0.0, min(x2, cx + w / 2) - max(x1, cx - w / 2))
            high = max(0.0, min(y2, cy + h / 2) - max(y1, cy - h / 2))
            overlap[face, prior] = wide * high / ((x2 - x1) * (y2 - y1) + w * h - wide * high)
    best_of_face, best_of_prior = overlap.argmax(axis=1), overlap.argmax(axis=0)
    value = overlap.max(axis=0)
    valid = overlap.max(axis=1) >= 0.2
    if not valid.any():
        return np.zeros(len(own), bool), best_of_prior
    value[best_of_face[valid]] = 2
    for face in range(len(faces)):
        best_of_prior[best_of_face[face]] = face
    return value >= 0.35, best_of_prior


def test_matching_is_the_published_procedure() -> None:
    positive, faces = published_match(FACES, SMALL)
    found = match(priors(SMALL), FACES, SMALL.matching)
    np.testing.assert_array_equal(found.positive.numpy(), positive)
    np.testing.assert_array_equal(found.faces.numpy(), faces)
    assert {0, 1, 2} == set(faces[positive].tolist()), "the sliver forces no prior"


def test_an_image_of_slivers_has_no_positive_prior() -> None:
    slivers = targets([[60, 40, 60.5, 60], [3, 3, 3.2, 40]], [True, True])
    assert not match(priors(SMALL), slivers, SMALL.matching).positive.any()


def test_losses_are_their_formulas() -> None:
    heads = random_heads(SMALL, 7)
    predictions = Predictions(*(rows_to_maps(head, SMALL) for head in heads))
    found = losses(SMALL, predictions, [FACES])
    logits, deltas, offsets = (head.astype(np.float64) for head in heads)
    positive, faces = published_match(FACES, SMALL)
    height, width = SMALL.input_size
    own = published_priors(SMALL) * (width, height, width, height)

    def smooth(difference: np.ndarray) -> float:
        size = np.abs(difference)
        return float(np.where(size < 1, 0.5 * size**2, size - 0.5).sum())

    box, points, with_points = 0.0, 0.0, 0
    corners, places = FACES.boxes.double().numpy(), FACES.points
    assert places is not None
    for prior in np.flatnonzero(positive):
        x1, y1, x2, y2 = corners[faces[prior]]
        cx, cy, w, h = own[prior]
        wanted = [
            ((x1 + x2) / 2 - cx) / (0.1 * w),
            ((y1 + y2) / 2 - cy) / (0.1 * h),
            math.log((x2 - x1) / w) / 0.2,
            math.log((y2 - y1) / h) / 0.2,
        ]
        box += smooth(deltas[prior] - wanted)
        face = places[faces[prior]].double().numpy()
        if (face[:, 2] > 0).all():
            with_points += 1
            points += smooth(offsets[prior].reshape(5, 2) - (face[:, :2] - (cx, cy)) / (0.1 * w, 0.1 * h))
    entropy = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(own)), positive.astype(int)]
    negatives = np.sort(entropy[~positive])[::-1][: 7 * int(positive.sum())]
    count = int(positive.sum())
    assert with_points < count
    assert float(found["box"]) == pytest.approx(2 * box / count, rel=1e-5)
    assert float(found["points"]) == pytest.approx(points / with_points, rel=1e-5)
    assert float(found["class"]) == pytest.approx(
        (entropy[positive].sum() + negatives.sum()) / count, rel=1e-5
    )


def test_priors_in_a_crowd_are_not_background() -> None:
    crowded = InstanceTargets(
        FACES.boxes, FACES.classes, FACES.masks, torch.tensor([[64.0, 0.0, 96.0, 64.0]]), FACES.points
    )
    found = match(priors(SMALL), crowded, SMALL.matching)
    assert found.ignored.any()
    logits = torch.zeros(len(found.positive), 2)
    logits[found.ignored, 1] = 50.0
    assert float(class_loss(logits, found, 7.0)) < 8 * int(found.positive.sum())


def test_points_come_back_from_their_code() -> None:
    own = priors(SMALL)[40:44]
    places = torch.rand(4, 5, 2) * 60
    from edgewise.models.families.retinaface.losses import decode_points

    torch.testing.assert_close(decode_points(encode_points(places, own).flatten(1), own), places)


def test_the_twins_differ_although_their_keys_do_not() -> None:
    """One file of weights loads as either entry; only the results tell which of them it is."""
    first, second = (registry.find(f"retinaface-mnet025{twin}") for twin in ("", "-relu"))
    assert {field for field in first.fields if first.fields[field] != second.fields[field]} == {
        "negative_slope",
        "prior_sizes",
    }
    torch.manual_seed(2)
    module, other = first.build(), second.build()
    other.load_state_dict(module.state_dict())
    images = torch.rand(2, 3, 64, 64) * 200
    assert not torch.allclose(module(images).logits[0], other(images).logits[0], atol=1e-3)


def test_the_deployed_network_gives_points_inside_their_slots() -> None:
    torch.manual_seed(3)
    deployed = RetinafaceDeploy(SMALL, Retinaface(SMALL))
    boxes, scores, classes, points, _ = deployed(torch.randint(0, 255, (1, 64, 96, 3), dtype=torch.uint8))[:5]
    assert points.shape == (1, SMALL.decoding.slots, 5, 2)
    assert not classes.any()
    empty = scores[0] == 0
    assert not boxes[0, empty].any()
    assert not points[0, empty].any()


def test_the_shipped_file_is_small_and_says_how_it_came_about() -> None:
    path = Path(edgewise.models.__file__).parent / "pretrained" / "retinaface-tiny.safetensors"
    assert path.stat().st_size <= 1_000_000
    meta, _ = load_checkpoint(path)
    assert meta.training_command.startswith("edgewise train retinaface-tiny --seed 1")
    assert meta.metrics["ap50"] >= 0.90
    assert meta.entry().config == registry.find("retinaface-tiny").config
