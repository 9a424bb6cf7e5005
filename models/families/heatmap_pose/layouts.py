"""Published checkpoints of SimpleBaseline and HRNet: bare state dicts, or with `module.` before every key."""

from __future__ import annotations

from edgewise.models.data.face_labels import WFLW_FACE
from edgewise.models.data.labels import COCO_PEOPLE
from edgewise.models.families.layout import Layout

SIMPLE_BASELINE = Layout(
    name="SimpleBaseline (COCO)",
    renames=(
        (r"^module\.", ""),
        (r"^deconv_layers\.", "deconvolutions."),
        (r"^final_layer\.", "heatmaps."),
        *((rf"^layer{stage + 1}\.", f"backbone.layers.{stage}.") for stage in range(4)),
        (r"^(?=conv1\.|bn1\.)", "backbone."),
    ),
    vocabulary=COCO_PEOPLE,
)

_TRUNK = ((r"^module\.", ""), (r"^(?=(conv|bn|layer|transition|stage)\d\.)", "trunk."))

HRNET = Layout(
    name="HRNet (COCO; also with DARK)",
    renames=(*_TRUNK, (r"^final_layer\.", "heatmaps.")),
    vocabulary=COCO_PEOPLE,
)

HRNET_FACE = Layout(
    name="HRNetV2 for faces (WFLW)",
    renames=(*_TRUNK, (r"^head\.", "heatmaps.")),
    vocabulary=WFLW_FACE,
)
