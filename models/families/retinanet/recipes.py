"""How RetinaNet is trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.families import recipe
from edgewise.models.families.recipe import Optimiser

V1 = recipe.Recipe(
    learning_rate=0.01,
    weight_decay=1e-4,
    batch=16,
    steps=190_000,
    warmup=1000,
    milestones=(16 / 26, 22 / 26),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5),
)
"""26 epochs of COCO, the rate a tenth from the 17th and a hundredth from the 23rd."""

V2 = replace(V1, optimiser=Optimiser.ADAMW, learning_rate=1e-4, weight_decay=0.05)
"""The published one also varies the shorter side from 480 to 800 pixels."""

TINY = replace(recipe.TINY, batch=8, steps=1200, warmup=100, learning_rate=2e-3)
"""Meant to begin from a trained yolact-tiny, whose backbone it has less one block."""
