"""YOLACT as it is deployed: uint8 camera pixels in, decoded instances of fixed shape out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgewise.models.families.yolact.config import YolactConfig
from edgewise.models.families.yolact.decoding import Detections, decode_detections
from edgewise.models.families.yolact.mask_iou import MaskIouNet
from edgewise.models.families.yolact.network import DoubleSize, Yolact
from edgewise.models.layers import boxes as box_ops
from edgewise.models.layers.rows import rows
from edgewise.models.layers.slots import filled


class YolactDeploy(nn.Module):
    """uint8 [N, H, W, 3] BGR -> boxes, scores, classes, masks[, settled], then the raw head tensors.

    With K slots, C classes, P priors, D prototypes of Hp x Wp:

    | output | | |
    |---|---|---|
    | boxes | float32 [N, K, 4] | x1, y1, x2, y2 in network-input pixels, corner convention, not clamped |
    | scores | float32 [N, K] | falling; 0 = empty slot, whose other values are 0 too |
    | classes | int32 [N, K] | 0-based |
    | masks | float32 [N, K, Hp, Wp] | probability, 0 outside the box widened by one prototype pixel |
    | settled | int32 [N] | sequential suppression only: 1 = proven to be the sequential result |
    | loc, conf, coefficients, prototypes | float32 | probes, as in `network.Predictions` |
    """

    def __init__(self, config: YolactConfig, module: Yolact) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        del self.network.semantic_seg_conv
        _drop_idle_relu(self.network.proto_net)
        self.input = config.image_input.fold_into(self.network.backbone.stem)
        height, width = config.input_size
        scale = self.network.priors.new_tensor([width, height, width, height])
        self.register_buffer("pixel_priors", self.network.priors * scale, persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        loc, conf, coefficients, prototypes, _ = self.network(self.input(image))
        boxes = box_ops.decode(loc, self.pixel_priors)
        found = decode_detections(conf, boxes, self.config.decoding)
        masks = assemble_masks(
            rows(coefficients, found.priors), prototypes, found.boxes, found.scores, self.config.input_size
        )
        if self.network.maskiou_net is not None:
            found, masks = rescored(self.network.maskiou_net, found, masks)
        outputs = (found.boxes, found.scores, found.classes.to(torch.int32), masks)
        if found.settled is not None:
            outputs = (*outputs, found.settled.to(torch.int32))
        return (*outputs, loc, conf, coefficients, prototypes)


def _drop_idle_relu(proto_net: nn.Sequential) -> None:
    """Take out the ReLU behind the doubling: a pass over averages of what is not negative."""
    for index, module in enumerate(proto_net):
        if isinstance(module, DoubleSize):
            proto_net[index + 1] = nn.Identity()


def rescored(judge: MaskIouNet, found: Detections, masks: Tensor) -> tuple[Detections, Tensor]:
    """YOLACT++: every score times the IoU that the judge expects of the mask, best first again.

    One score for boxes and masks, as the paper's code shows results; its COCO files keep the first score for
    boxes. A product of 0 is an empty slot. An IoU of more than 1, which the judge may expect and which the
    paper's code would take, counts as 1: a score stays in 0..1.

    Args:
        judge: Of masks.
        found: K slots of N images.
        masks: float32 [N, K, Hp, Wp].

    Returns:
        The same slots and masks in another order.
    """
    (images, slots), shape = found.scores.shape, masks.shape[-2:]
    expected = judge.of_class(masks.flatten(0, 1), found.classes.flatten()).clamp(max=1.0)
    scores, order = (found.scores * expected.unflatten(0, (images, slots))).topk(slots, dim=-1)
    classes, priors = (rows(value[..., None], order)[..., 0] for value in (found.classes, found.priors))
    scores, boxes, classes, priors, masks = filled(
        scores, slots, rows(found.boxes, order), classes, priors, rows(masks.flatten(2), order)
    )
    ranked = Detections(boxes, scores, classes, priors, found.settled)
    return ranked, masks.unflatten(-1, shape)


def assemble_masks(
    coefficients: Tensor, prototypes: Tensor, boxes: Tensor, scores: Tensor, input_size: tuple[int, int]
) -> Tensor:
    """sigmoid(coefficients . prototypes), cropped to each box widened by one prototype pixel.

    The paper's rule: prototype column c stays when min(x1, x2) * Wp/W - 1 <= c < max(x1, x2) * Wp/W + 1, rows
    likewise.

    Args:
        coefficients: float32 [N, K, D].
        prototypes: float32 [N, D, Hp, Wp].
        boxes: float32 [N, K, 4], corner form, network-input pixels.
        scores: float32 [N, K]; slots with score 0 get an empty mask.
        input_size: (height, width) of the network input.

    Returns:
        float32 [N, K, Hp, Wp] in 0..1.
    """
    height, width = prototypes.shape[-2:]
    logits = torch.matmul(coefficients, prototypes.flatten(2))
    masks = torch.sigmoid(logits).unflatten(-1, (height, width))
    full = (scores > 0.0)[..., None]
    across = _window(boxes[..., 0::2] * (width / input_size[1]), width)
    down = _window(boxes[..., 1::2] * (height / input_size[0]), height) & full
    return masks * down.to(masks.dtype)[..., :, None] * across.to(masks.dtype)[..., None, :]


def _window(ends: Tensor, size: int) -> Tensor:
    """Two ends [..., 2] in grid pixels, in any order -> bool [..., size]."""
    cells = torch.arange(size, device=ends.device, dtype=ends.dtype)
    low = ends.amin(dim=-1, keepdim=True) - 1.0
    high = ends.amax(dim=-1, keepdim=True) + 1.0
    return (cells >= low) & (cells < high)
