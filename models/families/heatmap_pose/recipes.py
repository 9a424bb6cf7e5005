"""How the families of this folder are trained.

Of the published recipes two things are not made here: turns are drawn evenly, not from a normal distribution
for three crops in five, and no crop shows half a body.
"""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.families import recipe

_ADAM = recipe.Optimiser.ADAMW
"""Without weight decay this is Adam."""

SIMPLE_BASELINE = recipe.Recipe(
    optimiser=_ADAM,
    learning_rate=1e-3,
    batch=128,
    steps=163_800,
    milestones=(90 / 140, 120 / 140),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5, rotation=40, rescale=0.3),
)
"""140 epochs of COCO's 149,813 people with keypoints; the rate falls after 90 and 120."""

HRNET = replace(
    SIMPLE_BASELINE,
    steps=245_700,
    milestones=(170 / 210, 200 / 210),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5, rotation=45, rescale=0.35),
)
"""210 epochs; the rate falls after 170 and 200."""

FACE = recipe.Recipe(
    optimiser=_ADAM,
    learning_rate=1e-4,
    batch=16,
    steps=28_100,
    milestones=(0.5, 50 / 60),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5, rotation=30, rescale=0.25),
)
"""60 epochs of WFLW's 7,500 faces; the rate falls after 30 and 50."""

TINY = replace(
    recipe.TINY,
    learning_rate=3e-3,
    batch=32,
    steps=2000,
    augmentation=replace(recipe.TINY_COLOURS, rotation=30, rescale=0.3, shift=0.05),
)
