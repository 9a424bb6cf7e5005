"""How CornerNet is trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.families import recipe
from edgewise.models.families.recipe import Optimiser

COCO = recipe.Recipe(
    optimiser=Optimiser.ADAMW,
    learning_rate=2.5e-4,
    batch=49,
    steps=500_000,
    milestones=(450 / 500,),
)
"""Adam, which AdamW without decay is; the rate a tenth from step 450,000."""

TRIPLETS = replace(COCO, batch=48, steps=480_000, milestones=(450 / 480,))

TINY = replace(recipe.TINY, batch=8, steps=2500, warmup=100, learning_rate=2e-3)
