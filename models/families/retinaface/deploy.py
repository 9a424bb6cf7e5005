"""RetinaFace as it is deployed: uint8 camera pixels in, faces with their points of fixed shape out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgewise.models.families.retinaface.config import DecodingConfig, RetinafaceConfig
from edgewise.models.families.retinaface.losses import decode_points
from edgewise.models.families.retinaface.network import Predictions, Retinaface, priors, rows_of
from edgewise.models.layers import boxes as box_ops
from edgewise.models.layers.rows import rows
from edgewise.models.layers.slots import best_survivors, filled


class RetinafaceDeploy(nn.Module):
    """uint8 [N, H, W, 3] BGR -> boxes, scores, classes, points, settled, then the maps of the heads.

    With S slots, K points, A priors a cell:

    | output | | |
    |---|---|---|
    | boxes | float32 [N, S, 4] | x1, y1, x2, y2 in input pixels, not clipped |
    | scores | float32 [N, S] | falling; 0 = empty slot, whose other values are 0 too |
    | classes | int32 [N, S] | 0: there is one class |
    | points | float32 [N, S, K, 2] | x, y in input pixels |
    | settled | int32 [N] | 1 = proven to be the sequential result of all candidates |
    | logits_0 ... 2, deltas_0 ... 2, offsets_0 ... 2 | float32 [N, ..., h, w] | probes: the heads |

    Where this differs from the published inference: overlaps are measured in input pixels, not in those of
    the frame, where the "+1" of inclusive corners is another length; fewer candidates enter the suppression,
    and `settled` says whether that could have made a difference.
    """

    def __init__(self, config: RetinafaceConfig, module: Retinaface) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        self.input = config.image_input.fold_into(self.network.body.stem)
        self.register_buffer("priors", priors(config), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        predictions = self.network(self.input(image))
        boxes, scores, points, settled = detect(
            predictions, self.priors, self.config.decoding, self.config.point_count
        )
        return (
            boxes,
            scores,
            torch.zeros_like(scores, dtype=torch.int32),
            points,
            settled.to(torch.int32),
            *predictions.logits,
            *predictions.deltas,
            *predictions.points,
        )


def detect(
    predictions: Predictions, own: Tensor, config: DecodingConfig, point_count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose faces: the best priors decoded, and of these the best that survive the suppression.

    Args:
        predictions: Of N images.
        own: float32 [P, 4], the priors in centre form, input pixels.
        config: Counts and thresholds.
        point_count: K.

    Returns:
        boxes float32 [N, S, 4], scores float32 [N, S], points float32 [N, S, K, 2] and settled bool [N].
    """
    logits = rows_of(predictions.logits, 2)
    scores = torch.sigmoid(logits[..., 1] - logits[..., 0])
    taken = min(config.candidates, scores.shape[1])
    ranked, place = scores.topk(taken, dim=1)
    ranked = ranked * (ranked > config.score_threshold).to(ranked.dtype)
    chosen = own.index_select(0, place.flatten()).reshape(*place.shape, 4)
    boxes = box_ops.decode(rows(rows_of(predictions.deltas, 4), place), chosen)
    points = decode_points(rows(rows_of(predictions.points, 2 * point_count), place), chosen)
    found = best_survivors(
        boxes,
        None,
        ranked,
        config.slots,
        config.iou_threshold,
        config.rounds,
        more=taken < scores.shape[1],
        plus_one=True,
    )
    best, boxes, flat = filled(
        found.scores, config.slots, rows(boxes, found.places), rows(points.flatten(2), found.places)
    )
    return boxes, best, flat.unflatten(-1, (point_count, 2)), found.settled
