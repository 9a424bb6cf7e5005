"""How CenterNet is trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.families import recipe
from edgewise.models.families.recipe import Optimiser

COCO = recipe.Recipe(
    optimiser=Optimiser.ADAMW,
    learning_rate=5e-4,
    weight_decay=0.0,
    batch=128,
    steps=129_000,
    warmup=0,
    milestones=(90 / 140, 120 / 140),
)
"""Adam, which AdamW without decay is; 140 epochs of COCO in batches of 128, the rate a tenth from the 91st
and a hundredth from the 121st."""

COCO_2X = replace(COCO, steps=212_000, milestones=(180 / 230, 210 / 230))

TINY = replace(recipe.TINY, batch=8, steps=1500, warmup=100, learning_rate=2e-3)
"""Meant to begin from a trained retinanet-tiny, which has the same backbone."""
