"""The network as it is trained: an R-CNN of one class, and the branch that reads surfaces."""

from __future__ import annotations

from edgewise.models.families.densepose.config import DensePoseConfig
from edgewise.models.families.densepose.surface_stage import SurfaceStage
from edgewise.models.families.rcnn.network import Rcnn


class DensePose(Rcnn):
    """Normalised images float32 [N, 3, H, W] -> `Features`; the stages on regions are called from outside."""

    def __init__(self, config: DensePoseConfig) -> None:
        super().__init__(config)
        self.surface_head = SurfaceStage(config)
