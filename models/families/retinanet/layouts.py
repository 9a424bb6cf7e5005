"""Published checkpoints of RetinaNet: torchvision's bare state_dict, in two generations of names."""

from __future__ import annotations

from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.layout import Layout

_TOWERS = (
    ("classification_head", "cls_logits", "class_tower"),
    ("regression_head", "bbox_reg", "box_tower"),
)

_SHARED = (
    *((rf"^backbone\.body\.layer{stage + 1}\.", f"backbone.layers.{stage}.") for stage in range(4)),
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.extra_blocks\.", "coarse."),
    *((rf"^head\.{head}\.{output}\.", f"{tower}.output.") for head, output, tower in _TOWERS),
)

TODAY = Layout(
    name="retinanet (torchvision)",
    renames=(
        *_SHARED,
        (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"fpn.lateral.\1."),
        (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"fpn.output.\1."),
        *((rf"^head\.{head}\.conv\.(\d)\.", rf"{tower}.hidden.\1.") for head, _, tower in _TOWERS),
    ),
    vocabulary=Vocabulary(COCO_THINGS),
)

EARLY = Layout(
    name="retinanet (torchvision's v1 file)",
    renames=(
        *_SHARED,
        (r"^backbone\.fpn\.inner_blocks\.(\d)\.(?=weight|bias)", r"fpn.lateral.\1."),
        (r"^backbone\.fpn\.layer_blocks\.(\d)\.(?=weight|bias)", r"fpn.output.\1."),
        # Convolutions and their ReLUs counted in one row.
        *(
            (rf"^head\.{head}\.conv\.{2 * layer}\.(?=weight|bias)", f"{tower}.hidden.{layer}.0.")
            for head, _, tower in _TOWERS
            for layer in range(4)
        ),
    ),
    vocabulary=Vocabulary(COCO_THINGS),
)

LAYOUTS = (TODAY, EARLY)
