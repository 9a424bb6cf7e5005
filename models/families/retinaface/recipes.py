"""How RetinaFace is trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.families import recipe

AUGMENTATION = replace(
    NO_AUGMENTATION,
    mirror=0.5,
    zoom_in=0.3,
    zoom_in_probability=0.8,
    brightness=32,
    contrast=0.5,
    saturation=0.5,
    hue=18,
)
"""Square crops of .3 to 1 of the shorter side as published, colours varied; the interpolation is not."""

_EPOCH = 12_880
"""Pictures of WIDER FACE's training set."""

MNET025 = recipe.Recipe(
    learning_rate=1e-3,
    weight_decay=5e-4,
    batch=32,
    steps=250 * _EPOCH // 32,
    milestones=(190 / 250, 220 / 250),
    augmentation=AUGMENTATION,
)

R50 = replace(MNET025, batch=24, steps=100 * _EPOCH // 24, milestones=(70 / 100, 90 / 100))

TINY = replace(recipe.TINY, batch=8, steps=1500, warmup=100, learning_rate=3e-3)
