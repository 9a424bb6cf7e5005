"""How R-CNNs are trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.families import recipe

TORCHVISION = recipe.Recipe(
    learning_rate=0.02,
    weight_decay=1e-4,
    batch=16,
    steps=190_000,
    warmup=1000,
    milestones=(16 / 26, 22 / 26),
    augmentation=replace(NO_AUGMENTATION, mirror=0.5),
)
"""26 epochs of COCO, the rate a tenth from epoch 16 and again from epoch 22."""

TORCHVISION_KEYPOINTS = replace(TORCHVISION, steps=180_000, milestones=(36 / 46, 43 / 46))
"""46 epochs of the 64 thousand images of COCO with people."""

DETECTRON2_3X = replace(TORCHVISION, steps=270_000, milestones=(210 / 270, 250 / 270))

TINY = replace(recipe.TINY, learning_rate=1.5e-3, batch=8, steps=600, warmup=50)
"""Meant to begin from a trained upsnet-tiny, which has the same backbone, pyramid and stages."""

TINY_KEYPOINTS = replace(recipe.TINY, learning_rate=2e-3, batch=8, steps=1500, warmup=50)
"""Meant to begin from a trained retinanet-tiny, which has the same backbone."""
