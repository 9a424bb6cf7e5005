"""A coordinate regressor as it is deployed: uint8 camera pixels in, points out."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from edgewise.models.families.coordinate_regression.config import RegressionConfig
from edgewise.models.families.coordinate_regression.network import Regressor


class RegressionDeploy(nn.Module):
    """uint8 [N, H, W, 3] BGR -> points float32 [N, K, 2], shares of the input, as trained."""

    def __init__(self, config: RegressionConfig, module: Regressor) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        self.input = config.image_input.fold_into(self.network.stem)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.network(self.input(image)),)
