"""The three losses of RetinaFace's training: classes, boxes and points of priors, with hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.retinaface.config import MatchingConfig, RetinafaceConfig
from edgewise.models.families.retinaface.network import Predictions, priors, rows_of
from edgewise.models.layers import boxes as box_ops

BACKGROUND, FACE = 0, 1


class Matched(NamedTuple):
    """What every prior of an image is to say."""

    positive: Tensor
    """bool [P]: answers for a face."""
    faces: Tensor
    """int64 [P]: which one it overlaps most, or is the best of; 0 where there is none."""
    ignored: Tensor
    """bool [P]: neither face nor background."""


def losses(
    config: RetinafaceConfig, predictions: Predictions, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Scalar terms `box`, `class` and `points`: sums over the batch, divided by its positive priors.

    The points of a face count where all of them are labelled, and are divided by the number of priors with
    such faces.

    Args:
        config: Sizes, thresholds and weights.
        predictions: Of N images.
        targets: One for each image, in network pixels, with points.
    """
    logits = rows_of(predictions.logits, 2)
    deltas = rows_of(predictions.deltas, 4)
    offsets = rows_of(predictions.points, 2 * config.point_count)
    own = priors(config).to(logits.device)
    of_box, of_class, of_points = (logits.new_zeros(()) for _ in range(3))
    found, with_points = 0, 0
    for index, truth in enumerate(targets):
        matched = match(own, truth, config.matching)
        taken = torch.nonzero(matched.positive).flatten()
        faces = matched.faces[taken]
        of_box = of_box + F.smooth_l1_loss(
            deltas[index, taken], box_ops.encode(truth.boxes[faces], own[taken]), reduction="sum"
        )
        of_class = of_class + class_loss(logits[index], matched, config.losses.negatives)
        assert truth.points is not None
        labelled = (truth.points[faces, :, 2] > 0).all(dim=1)
        wanted = encode_points(truth.points[faces[labelled], :, :2], own[taken[labelled]])
        of_points = of_points + F.smooth_l1_loss(
            offsets[index, taken[labelled]], wanted.flatten(1), reduction="sum"
        )
        found += len(taken)
        with_points += int(labelled.sum())
    count = max(found, 1)
    return {
        "box": config.losses.box_weight * of_box / count,
        "class": of_class / count,
        "points": of_points / max(with_points, 1),
    }


def class_loss(logits: Tensor, matched: Matched, negatives: float) -> Tensor:
    """Cross-entropy, summed, of an image's positive priors and of the hardest background.

    Args:
        logits: float32 [P, 2].
        matched: What the priors are to say.
        negatives: Background priors for each positive one, at most all but one.
    """
    wanted = matched.positive.long()
    entropy = F.cross_entropy(logits, wanted, reduction="none")
    count = min(int(negatives * int(matched.positive.sum())), len(wanted) - 1)
    hardness = torch.where(matched.positive, 0.0, entropy.detach())
    chosen = hardness.masked_fill(matched.ignored, -1.0).topk(count).indices
    taken = matched.positive.clone()
    taken[chosen] = True
    return entropy[taken & ~(matched.ignored & ~matched.positive)].sum()


@torch.no_grad()
def match(own: Tensor, truth: InstanceTargets, matching: MatchingConfig) -> Matched:
    """Match priors [P, 4], centre form, to the faces of an image.

    A prior answers for the face that it overlaps most, from `positive_iou` on. Of every face the best prior
    belongs to it, later faces first; but that makes the prior positive only where it overlaps some such face
    by `forced_iou`. An image whose faces all overlap their best priors by less has no positive prior.
    """
    count = len(own)
    corners = box_ops.corners_from_centres(own)
    ignored = torch.zeros(count, dtype=torch.bool, device=own.device)
    if len(truth.crowd_boxes):
        covered = box_ops.coverage(truth.crowd_boxes, corners).amax(dim=0)
        ignored = covered > matching.crowd_coverage
    if not len(truth):
        return Matched(torch.zeros_like(ignored), torch.zeros_like(ignored, dtype=torch.int64), ignored)
    overlaps = torch.nan_to_num(box_ops.iou(truth.boxes, corners), nan=0.0)
    best, faces = overlaps.max(dim=0)
    of_face, prior = overlaps.max(dim=1)
    forced = of_face >= matching.forced_iou
    best = best.index_fill(0, prior[forced], 2.0)
    for face, place in enumerate(prior.tolist()):
        faces[place] = face
    positive = (best >= matching.positive_iou) & forced.any()
    return Matched(positive, faces, ignored & ~positive)


def encode_points(points: Tensor, own: Tensor) -> Tensor:
    """Places [n, K, 2] in input pixels against priors [n, 4] in centre form -> [n, K, 2]."""
    return (points - own[:, None, :2]) / (box_ops.CENTRE_VARIANCE * own[:, None, 2:])


def decode_points(offsets: Tensor, own: Tensor) -> Tensor:
    """Offsets [..., 2 K] against priors [..., 4] in centre form -> places [..., K, 2] in input pixels."""
    pairs = offsets.unflatten(-1, (-1, 2))
    return own[..., None, :2] + pairs * (box_ops.CENTRE_VARIANCE * own[..., None, 2:])
