"""How a model is trained: optimiser, schedule, batch, augmentation. Frozen data with defaults per model."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, replace

from edgewise.models.data.augment import NO_AUGMENTATION, Augmentation


class Optimiser(enum.Enum):
    SGD = "sgd"
    ADAMW = "adamw"
    RMSPROP = "rmsprop"


class Schedule(enum.Enum):
    STEPS = "steps"
    """The rate falls to a tenth at each milestone."""
    COSINE = "cosine"
    """The rate falls to nothing along half a cosine."""


@dataclass(frozen=True)
class Recipe:
    """One way to train; the defaults are the paper's (YOLACT: SGD, batch 8, 800,000 steps).

    Attributes:
        optimiser: SGD with momentum, AdamW, or RMSprop (decay 0.99, no momentum).
        learning_rate: After the warm-up.
        momentum: Of SGD.
        weight_decay: Not applied to biases and normalisation layers by AdamW.
        batch: Images, or people, a step.
        steps: Optimiser steps in all.
        warmup: Steps in which the rate rises linearly from a tenth.
        schedule: How the rate falls.
        milestones: Parts of `steps` at which a STEPS schedule falls.
        clip_norm: Largest L2 norm of the gradient; 0 is no limit.
        average: Decay of the exponential moving average of the weights, which is what is saved; 0 saves the
            weights themselves.
        augmentation: How examples are varied.
    """

    optimiser: Optimiser = Optimiser.SGD
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 8
    steps: int = 800_000
    warmup: int = 500
    schedule: Schedule = Schedule.STEPS
    milestones: tuple[float, ...] = (0.35, 0.75, 0.875, 0.9375)
    clip_norm: float = 0.0
    average: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (0.1 + 0.9 * step / self.warmup)
        if self.schedule is Schedule.STEPS:
            passed = sum(step >= milestone * self.steps for milestone in self.milestones)
            return self.learning_rate * 0.1**passed
        along = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(along, 1)))


PAPER = Recipe()
"""YOLACT's."""

UPSNET_COCO = Recipe(
    learning_rate=0.02,
    weight_decay=1e-4,
    batch=16,
    steps=90_000,
    warmup=1500,
    milestones=(60 / 90, 80 / 90),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5),
)
UPSNET_CITYSCAPES = replace(UPSNET_COCO, steps=12_000, milestones=(0.75,))

HOURGLASS = Recipe(
    optimiser=Optimiser.RMSPROP,
    learning_rate=2.5e-4,
    weight_decay=0.0,
    batch=6,
    steps=370_000,
    warmup=0,
    milestones=(0.6, 0.9),
    augmentation=replace(
        NO_AUGMENTATION, mirror=0.5, contrast=0.2, saturation=0.2, rotation=30, rescale=0.25
    ),
)
"""A hundred epochs of MPII's 22,246 people; the rate falls after 60 and 90."""

_TINY_COLOURS = replace(NO_AUGMENTATION, mirror=0.5, brightness=16, contrast=0.2, saturation=0.2, hue=9)

TINY = Recipe(
    optimiser=Optimiser.ADAMW,
    learning_rate=2e-3,
    weight_decay=0.02,
    batch=16,
    steps=3000,
    warmup=200,
    schedule=Schedule.COSINE,
    clip_norm=10.0,
    average=0.998,
    augmentation=replace(
        _TINY_COLOURS,
        zoom_out=1.4,
        zoom_out_probability=0.2,
        zoom_in=0.6,
        zoom_in_probability=0.3,
        stretch=1.3,
    ),
)
"""For the tiny models on synthetic scenes: half an hour on two free CPU cores."""

UPSNET_TINY = replace(TINY, learning_rate=1.5e-3, batch=8, steps=3000)
"""Meant to begin from a trained yolact-tiny, which has the same backbone."""

HOURGLASS_TINY = replace(
    TINY,
    learning_rate=3e-3,
    batch=32,
    steps=2500,
    augmentation=replace(_TINY_COLOURS, rotation=30, rescale=0.3, shift=0.05),
)

_BY_MODEL = {
    "yolact-tiny": TINY,
    "upsnet-r50-coco": UPSNET_COCO,
    "upsnet-r50-cityscapes": UPSNET_CITYSCAPES,
    "upsnet-tiny": UPSNET_TINY,
    "hourglass-1": HOURGLASS,
    "hourglass-2": HOURGLASS,
    "hourglass-8": HOURGLASS,
    "hourglass-2-princeton": HOURGLASS,
    "hourglass-8-princeton": HOURGLASS,
    "hourglass-tiny": HOURGLASS_TINY,
}


def recipe_for(model: str) -> Recipe:
    """The default recipe of a registry name; YOLACT's where there is none of its own."""
    return _BY_MODEL.get(model, PAPER)
