"""How DensePoses are trained."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.families import recipe
from edgewise.models.families.rcnn import recipes as rcnn

S1X = replace(
    rcnn.DETECTRON2_3X,
    learning_rate=0.01,
    steps=130_000,
    milestones=(100 / 130, 120 / 130),
    augmentation=recipe.NO_AUGMENTATION,
)
"""Published also mirrors, which needs data of the body that cannot be shipped."""

LEGACY = replace(S1X, learning_rate=0.002)

TINY = replace(recipe.TINY, learning_rate=2e-3, batch=8, steps=3700, warmup=50)
"""Meant to begin from a trained mask-rcnn-tiny, which has the same backbone, pyramid and proposals."""
