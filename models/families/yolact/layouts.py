"""Published checkpoints of YOLACT: the bare state_dict of the paper's code."""

from __future__ import annotations

from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.layout import Layout

PUBLISHED = Layout(
    name="yolact (paper's code)",
    renames=((r"^backbone\._preconv\.", "backbone.preconv."),),
    dropped=(
        # Left by early versions: a second name of the backbone's stages, pyramid levels that are never used.
        r"backbone\.layer\d",
        r"fpn\.downsample_layers\.([2-9]|\d\d)",
    ),
    vocabulary=Vocabulary(COCO_THINGS),
)

LAYOUTS = (PUBLISHED,)
