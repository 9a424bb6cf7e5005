"""How UPSNet is trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.families import recipe

COCO = recipe.Recipe(
    learning_rate=0.02,
    weight_decay=1e-4,
    batch=16,
    steps=90_000,
    warmup=1500,
    milestones=(60 / 90, 80 / 90),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5),
)
CITYSCAPES = replace(COCO, steps=12_000, milestones=(0.75,))

TINY = replace(recipe.TINY, learning_rate=1.5e-3, batch=8, steps=3000)
"""Meant to begin from a trained yolact-tiny, which has the same backbone."""
