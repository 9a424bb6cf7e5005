"""The loss of Stacked Hourglass: squared error of every stack's heatmaps (intermediate supervision)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgewise.models.families.heatmap_targets import target_heatmaps
from edgewise.models.families.hourglass.config import HourglassConfig, StackReduction
from edgewise.models.tasks.keypoints.targets import KeypointTargets


def losses(
    config: HourglassConfig, predicted: Sequence[Tensor], targets: Sequence[KeypointTargets]
) -> dict[str, Tensor]:
    """Weighted scalar terms `stack_1`, `stack_2`, ...; their sum is what training descends.

    A term is the squared error of one stack averaged over all crops, keypoints and cells; a point that is not
    labelled, or not on the map, counts as without error.

    Args:
        config: Targets and weights.
        predicted: Heatmaps float32 [N, K, h, w] of every stack.
        targets: One for each crop, in network pixels.
    """
    wanted, weights = target_heatmaps(targets, config.heatmap_size, config.input_size, config.targets)
    factor = config.losses.weight
    if config.losses.over_stacks is StackReduction.MEAN:
        factor /= len(predicted)
    return {
        f"stack_{number}": factor * (weights[..., None, None] * (heatmaps - wanted) ** 2).mean()
        for number, heatmaps in enumerate(predicted, start=1)
    }
