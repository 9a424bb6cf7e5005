"""Batch normalisation as checkpoints want it: at their epsilon, and at its stored statistics in training."""

from __future__ import annotations

from torch import nn


def freeze_batch_norm(network: nn.Module) -> None:
    """Evaluation mode and no gradients for every batch normalisation inside; call it from `train`."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)


def set_epsilon(network: nn.Module, epsilon: float) -> None:
    """What every batch normalisation inside adds to the variance; weights are made for one value."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = epsilon
