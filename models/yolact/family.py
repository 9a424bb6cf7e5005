"""YOLACT as the registry sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgewise.models.instance_targets import InstanceTargets
from edgewise.models.yolact.config import YolactConfig
from edgewise.models.yolact.deploy import YolactDeploy
from edgewise.models.yolact.losses import losses
from edgewise.models.yolact.network import Yolact


def build(config: YolactConfig) -> Yolact:
    """The training definition with fresh weights drawn from torch's global generator."""
    return Yolact(config)


def loss(
    config: YolactConfig, module: nn.Module, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Weighted loss terms of normalised images float32 [N, 3, H, W]."""
    assert isinstance(module, Yolact)
    return losses(config, module.priors, module(images), targets)


def normalise(config: YolactConfig, frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] BGR -> float32 [N, 3, H, W] RGB, (value - mean) / std."""
    mean = torch.tensor(config.mean, device=frames.device).view(3, 1, 1)
    std = torch.tensor(config.std, device=frames.device).view(3, 1, 1)
    return (frames.permute(0, 3, 1, 2).flip(1).float() - mean) / std


def deploy(config: YolactConfig, module: nn.Module) -> YolactDeploy:
    """The deploy graph with a copy of the module's weights."""
    assert isinstance(module, Yolact)
    return YolactDeploy(config, module)
