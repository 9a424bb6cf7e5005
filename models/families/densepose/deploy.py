"""DensePose as it is deployed: uint8 camera pixels in, people and their maps of fixed shape out."""

from __future__ import annotations

from torch import Tensor

from edgewise.models.families.densepose.config import DensePoseConfig
from edgewise.models.families.densepose.network import DensePose
from edgewise.models.families.rcnn.deploy import RcnnDeploy
from edgewise.models.families.rcnn.network import Features


class DensePoseDeploy(RcnnDeploy):
    """uint8 [1, H, W, 3] BGR -> boxes, scores, classes, coarse, fine, u, v, settled, then the raw head maps.

    As `RcnnDeploy`, and of K slots float32 maps over the box, 0 in empty slots: coarse [1, K, c, s, s], fine,
    u and v [1, K, parts + 1, s, s].

    The published maps are doubled before they are resized to the box; the runtime does both. There are as
    many slots as `decoding.slots`, the published 100 would be 97 MB of maps a frame.
    """

    def __init__(self, config: DensePoseConfig, module: DensePose) -> None:
        super().__init__(config, module)

    def maps(self, features: Features, boxes: Tensor, classes: Tensor, full: Tensor) -> tuple[Tensor, ...]:
        found = self.network.surface_head.deploy(features.levels, boxes)
        return tuple((each * full[:, None, None, None])[None] for each in found)
