"""Batch normalisation that keeps its stored statistics while the rest of a network is trained."""

from __future__ import annotations

from torch import nn


def freeze_batch_norm(network: nn.Module) -> None:
    """Evaluation mode and no gradients for every batch normalisation inside; call it from `train`."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)
