"""What the authors of published R-CNNs report."""

from __future__ import annotations

from edgewise.models.families.family import PublishedFigure
from edgewise.models.families.rcnn import recipes
from edgewise.models.families.recipe import Recipe


def published_figure(metric: str, value: float, recipe: Recipe) -> PublishedFigure:
    """A figure on COCO of a model that its authors trained by a recipe."""
    source = (
        "MODEL_ZOO.md of detectron2" if recipe is recipes.DETECTRON2_3X else "documentation of torchvision"
    )
    return PublishedFigure(metric, value, "COCO val2017", f"{source}, inputs of 800 to 1333 pixels")
