"""Published checkpoints of CornerNet and of CenterNet's triplets: bare state_dicts of one form."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.layout import Layout

PRINCETON = Layout(
    name="cornernet (princeton-vl)",
    renames=(
        (r"^module\.", ""),
        (r"\.skip\.", ".downsample."),
        (r"^(pre|kps|cnvs|inters|inters_|cnvs_)\.", r"backbone.\1."),
    ),
    vocabulary=Vocabulary(COCO_THINGS),
)

TRIPLETS = replace(PRINCETON, name="centernet of keypoint triplets (Duankaiwen)")

LAYOUTS = (PRINCETON,)
