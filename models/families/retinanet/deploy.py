"""RetinaNet as it is deployed: uint8 camera pixels in, decoded boxes of fixed shape out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgewise.models.families.retinanet.config import RetinanetConfig
from edgewise.models.families.retinanet.decoding import detect
from edgewise.models.families.retinanet.network import Retinanet, Tower, level_anchors


class RetinanetDeploy(nn.Module):
    """uint8 [N, H, W, 3] BGR -> boxes, scores, classes, settled, then the maps of the towers.

    With K slots, C classes, A anchors a cell:

    | output | | |
    |---|---|---|
    | boxes | float32 [N, K, 4] | x1, y1, x2, y2 in input pixels, corner convention, inside the canvas |
    | scores | float32 [N, K] | falling; 0 = empty slot, whose other values are 0 too |
    | classes | int32 [N, K] | 0-based |
    | settled | int32 [N] | 1 = proven to be the sequential result of all candidates |
    | logits_3 ... logits_7 | float32 [N, A * C, h, w] | probes: class logits of each level |
    | deltas_3 ... deltas_7 | float32 [N, 4 A, h, w] | probes: box regression of each level |

    Where this differs from the published inference: boxes are clipped to the canvas before the suppression
    and only afterwards to the picture in it, because a graph of fixed shape does not know the picture's size;
    rows of the class logits that belong to no category are left out, where torchvision would report one that
    scored.
    """

    def __init__(self, config: RetinanetConfig, module: Retinanet) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        _keep_rows(self.network.class_tower, config)
        self.input = config.image_input.fold_into(self.network.backbone.stem)
        for level, anchors in enumerate(level_anchors(config)):
            self.register_buffer(f"anchors_{level}", anchors, persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits, deltas, _ = self.network(self.input(image))
        anchors = [getattr(self, f"anchors_{level}") for level in range(len(logits))]
        found = detect(logits, deltas, anchors, self.config.input_size, self.config.decoding)
        return (
            found.boxes,
            found.scores,
            found.classes.to(torch.int32),
            found.settled.to(torch.int32),
            *logits,
            *deltas,
        )


def _keep_rows(tower: Tower, config: RetinanetConfig) -> None:
    """Take out of the last convolution the rows that are no class's."""
    whole = tower.output
    anchor = torch.arange(config.anchors_per_cell)[:, None] * config.row_count
    kept = (anchor + torch.tensor(config.class_rows)).flatten()
    tower.output = nn.Conv2d(whole.in_channels, len(kept), 3, 1, 1, device=whole.weight.device)
    tower.output.requires_grad_(False)
    assert whole.bias is not None
    assert tower.output.bias is not None
    tower.output.weight.copy_(whole.weight[kept])
    tower.output.bias.copy_(whole.bias[kept])
