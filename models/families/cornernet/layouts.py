"""Published checkpoints of CornerNet: princeton-vl's bare state_dict."""

from __future__ import annotations

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

LAYOUTS = (PRINCETON,)
