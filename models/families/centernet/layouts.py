"""Published checkpoints of CenterNet ("Objects as Points"): a state_dict, bare or in a file of training."""

from __future__ import annotations

from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.layout import Layout

RESNET = Layout(
    name="centernet, ResNet (xingyizhou)",
    renames=(
        (r"^module\.", ""),
        *((rf"^layer{stage + 1}\.", f"backbone.layers.{stage}.") for stage in range(4)),
        (r"^(conv1|bn1)\.", r"backbone.\1."),
        (r"^deconv_layers\.", "neck."),
    ),
    vocabulary=Vocabulary(COCO_THINGS),
)

DLA = Layout(
    name="centernet, DLA (xingyizhou)",
    renames=((r"^module\.", ""), (r"^base\.", "backbone."), (r"^(dla_up|ida_up)\.", r"neck.\1.")),
    # The classifier of the ImageNet weights, and projections of outer trees: nothing reads them.
    dropped=(r"(module\.)?base\.fc\.", r"(module\.)?base\.level[34]\.project\."),
    vocabulary=Vocabulary(COCO_THINGS),
)

LAYOUTS = (RESNET, DLA)
