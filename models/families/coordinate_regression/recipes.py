"""How coordinate regressors are trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.families import recipe

_WFLW = 7500
"""Training faces of WFLW."""

DEEPPOSE = recipe.Recipe(
    optimiser=recipe.Optimiser.ADAMW,
    learning_rate=5e-4,
    batch=64,
    steps=210 * _WFLW // 64,
    milestones=(170 / 210, 200 / 210),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5, rotation=80, rescale=0.25),
)
"""mmpose's for WFLW: Adam, 210 epochs; the rate falls after 170 and 200. The same for MobileNetV2, whose
repository does not say how it was trained."""

PFLD = recipe.Recipe(
    optimiser=recipe.Optimiser.ADAMW,
    learning_rate=1e-4,
    weight_decay=1e-6,
    batch=256,
    steps=500 * _WFLW // 256,
    milestones=(0.6, 0.85),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5, rotation=30, shift=0.05),
)
"""PFLD-pytorch's Adam; its rate falls where the validation error stays, here at fixed steps."""

TINY = replace(
    recipe.TINY,
    learning_rate=3e-3,
    batch=32,
    steps=1500,
    warmup=100,
    augmentation=replace(recipe.TINY_COLOURS, rotation=15, rescale=0.15, shift=0.03),
)

TINY_FACE = replace(
    TINY, batch=16, steps=1400, augmentation=replace(TINY.augmentation, rotation=20, shift=0.05)
)
