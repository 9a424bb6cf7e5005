"""How Stacked Hourglass is trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.families import recipe

MPII = recipe.Recipe(
    optimiser=recipe.Optimiser.RMSPROP,
    learning_rate=2.5e-4,
    batch=6,
    steps=370_000,
    milestones=(0.6, 0.9),
    augmentation=replace(
        NO_AUGMENTATION, mirror=0.5, contrast=0.2, saturation=0.2, rotation=30, rescale=0.25
    ),
)
"""A hundred epochs of MPII's 22,246 people; the rate falls after 60 and 90."""

TINY = replace(
    recipe.TINY,
    learning_rate=3e-3,
    batch=32,
    steps=2500,
    augmentation=replace(recipe.TINY_COLOURS, rotation=30, rescale=0.3, shift=0.05),
)
