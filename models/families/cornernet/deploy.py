"""CornerNet as it is deployed: uint8 camera pixels in, decoded pairs of fixed shape out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgewise.models.families.cornernet.config import CornernetConfig
from edgewise.models.families.cornernet.decoding import detect, detect_centres
from edgewise.models.families.cornernet.network import Cornernet


class CornernetDeploy(nn.Module):
    """uint8 [N, H, W, 3] BGR -> boxes, scores, classes, then the maps of the last hourglass.

    With K slots, C classes and maps of h x w cells, and for the upper left (`tl`) and the lower right (`br`)
    corners each:

    | output | | |
    |---|---|---|
    | boxes | float32 [N, K, 4] | x1, y1, x2, y2 in input pixels, corner convention |
    | scores | float32 [N, K] | falling; 0 = empty slot, whose other values are 0 too |
    | classes | int32 [N, K] | 0-based |
    | centres | float32 [N, J, 2] | x, y in input pixels; these three only of triplets |
    | centre_scores | float32 [N, J] | falling; 0 = empty slot |
    | centre_classes | int32 [N, J] | 0-based |
    | tl_heat, br_heat | float32 [N, C, h, w] | probe: logits of corners |
    | tl_tag, br_tag | float32 [N, 1, h, w] | probe: embeddings |
    | tl_offset, br_offset | float32 [N, 2, h, w] | probe: x, y of the corner within its cell |

    and of triplets `ct_heat`, `ct_offset`.

    The published test also looks at the mirrored frame and pools the pairs of both; this is the one look.
    """

    def __init__(self, config: CornernetConfig, module: Cornernet) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        self.input = config.image_input.fold_into(self.network.backbone.stem)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.network.backbone(self.input(image))
        predictions = self.network.predictions(maps[-1], len(maps) - 1)
        found = detect(predictions, self.config)
        first, second = predictions.corners
        outputs = (found.boxes, found.scores, found.classes.to(torch.int32))
        if predictions.centre is None:
            return (*outputs, *first, *second)
        centres = detect_centres(predictions.centre, self.config)
        of_centres = (centres.places, centres.scores, centres.classes.to(torch.int32))
        return (*outputs, *of_centres, *first, *second, *predictions.centre)
