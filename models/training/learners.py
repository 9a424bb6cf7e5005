"""What a training run does to a model at each step; the loop around it keeps data, files and time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.recipe import Optimiser, Recipe
from edgewise.models.training.batches import Batch
from edgewise.runtime.system.errors import CheckpointError, ModelError

Losses = dict[str, float]


class Learner(Protocol):
    """Modules in training, and all that changes with them.

    A run that stops between two steps and goes on by `load(state())` in a new learner of the same settings
    gives the same weights to the bit.
    """

    @property
    def step(self) -> int:
        """Steps taken."""
        ...

    @property
    def result(self) -> nn.Module:
        """The training definition as it is saved and measured now."""
        ...

    def take_step(self, batch: Batch) -> Losses:
        """Learn from the batch of step `step`, and count it; the loss terms.

        Raises:
            ModelError: The loss or its gradient is not finite.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that changes, `step` among it, as tensors and plain values."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, among other keys."""
        ...


class Supervised:
    """One module descends the family's loss; a moving average of its weights is the result."""

    def __init__(
        self, entry: ModelEntry, recipe: Recipe, seed: int, initial: Path | None, device: torch.device
    ) -> None:
        """Fresh weights of `seed`, but for those of the checkpoint `initial` that fit.

        Raises:
            CheckpointError: No tensor of `initial` fits the model, or it is not a checkpoint.
        """
        self.entry, self.recipe, self.seed, self.device = entry, recipe, seed, device
        torch.manual_seed(seed)
        module = entry.build()
        if initial is not None:
            _take_over(module, initial)
        self.module = module.to(device).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.module).eval().requires_grad_(False)
        self.optimiser = _optimiser(self.module, recipe)
        self.step = 0

    @property
    def result(self) -> nn.Module:
        return self.average

    def take_step(self, batch: Batch) -> Losses:
        step = self.step
        # Seeded by the step, so that a resumed run draws the same random positives.
        torch.manual_seed(self.seed * 1_000_003 + step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(step)
        frames = self.entry.normalise(batch.frames.to(self.device))
        images = frames.contiguous(memory_format=torch.channels_last)
        terms = self.entry.loss(self.module, images, [target.to(self.device) for target in batch.targets])
        total = torch.stack(list(terms.values())).sum()
        losses = {name: float(term.detach()) for name, term in terms.items()}
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        limit = self.recipe.clip_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), limit)
        if not bool(torch.isfinite(total)) or not bool(torch.isfinite(norm)):
            found = f"loss {float(total.detach())}, gradient norm {float(norm)}"
            raise ModelError(
                f"training diverged at step {step}: {found}",
                where=", ".join(f"{name} {value:.4g}" for name, value in losses.items()),
                hint="train with a lower learning rate; the state saved last is still there to look at",
            )
        self.optimiser.step()
        _follow(self.average, self.module, self.recipe.average, step)
        self.step = step + 1
        return losses

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if recipe.optimiser is Optimiser.SGD:
        return torch.optim.SGD(
            parameters, recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    if recipe.optimiser is Optimiser.RMSPROP:
        return torch.optim.RMSprop(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay)


def _take_over(module: nn.Module, initial: Path) -> None:
    """Load what fits of a checkpoint, by name and shape."""
    _, tensors = load_checkpoint(initial)
    wanted = module.state_dict()
    fitting = {
        name: tensor
        for name, tensor in tensors.items()
        if name in wanted and wanted[name].shape == tensor.shape
    }
    if not fitting:
        raise CheckpointError(
            f"none of its {len(tensors)} tensors has the name and shape of one of the model",
            where=str(initial),
            hint="begin from a checkpoint of the same model, or of one with the same backbone",
        )
    module.load_state_dict({**wanted, **fitting})


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    # Early steps weigh more, otherwise the average would remember the random weights.
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    for mean, value in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
