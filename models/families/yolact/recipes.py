"""How YOLACT is trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.augment import Augmentation
from edgewise.models.families import recipe

PAPER = recipe.Recipe(
    learning_rate=1e-3,
    weight_decay=5e-4,
    batch=8,
    steps=800_000,
    warmup=500,
    milestones=(0.35, 0.75, 0.875, 0.9375),
    augmentation=Augmentation(),
)

TINY = recipe.TINY

PLUS_TINY = replace(recipe.TINY, learning_rate=1.5e-3, batch=8, steps=240, warmup=20, average=0.98)
"""Meant to begin from a trained yolact-tiny, which has all but the taps' offsets and the judge of masks."""
