"""How a model is trained: optimiser, schedule, batch, augmentation. Each family keeps its own."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace

from edgewise.models.data.augment import NO_AUGMENTATION, Augmentation


class Optimiser(enum.Enum):
    SGD = "sgd"
    ADAMW = "adamw"
    RMSPROP = "rmsprop"


class RateSchedule(enum.Enum):
    STEPS = "steps"
    """The rate falls to a tenth at each milestone."""
    COSINE = "cosine"
    """The rate falls to nothing along half a cosine."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train. What every recipe decides has no default, the rest is plain until asked for.

    Attributes:
        learning_rate: After the warm-up.
        batch: Images, or people, a step.
        steps: Optimiser steps in all.
        optimiser: SGD with momentum, AdamW, or RMSprop (decay 0.99, no momentum).
        momentum: Of SGD.
        weight_decay: Not applied to biases and normalisation layers by AdamW.
        warmup: Steps in which the rate rises linearly from a tenth.
        schedule: How the rate falls.
        milestones: Parts of `steps` at which a STEPS schedule falls.
        clip_norm: Largest L2 norm of the gradient; 0 is no limit.
        average: Decay of the exponential moving average of the weights, which is what is saved; 0 saves the
            weights themselves.
        augmentation: How examples are varied.
    """

    learning_rate: float
    batch: int
    steps: int
    optimiser: Optimiser = Optimiser.SGD
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: RateSchedule = RateSchedule.STEPS
    milestones: tuple[float, ...] = ()
    clip_norm: float = 0.0
    average: float = 0.0
    augmentation: Augmentation = NO_AUGMENTATION

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (0.1 + 0.9 * step / self.warmup)
        if self.schedule is RateSchedule.STEPS:
            passed = sum(step >= milestone * self.steps for milestone in self.milestones)
            return self.learning_rate * 0.1**passed
        along = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(along, 1)))


TINY_COLOURS = replace(NO_AUGMENTATION, mirror=0.5, brightness=16, contrast=0.2, saturation=0.2, hue=9)

TINY = Recipe(
    optimiser=Optimiser.ADAMW,
    learning_rate=2e-3,
    weight_decay=0.02,
    batch=16,
    steps=3000,
    warmup=200,
    schedule=RateSchedule.COSINE,
    clip_norm=10.0,
    average=0.998,
    augmentation=replace(
        TINY_COLOURS,
        zoom_out=1.4,
        zoom_out_probability=0.2,
        zoom_in=0.6,
        zoom_in_probability=0.3,
        stretch=1.3,
    ),
)
"""What the tiny models on synthetic scenes have in common: half an hour on two free CPU cores."""
