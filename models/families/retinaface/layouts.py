"""Published checkpoints of RetinaFace: files of the PyTorch code, bare or as of a `DataParallel` model."""

from __future__ import annotations

from edgewise.models.data.face_labels import FIVE_FACE
from edgewise.models.families.layout import Layout

_HEADS = (("ClassHead", "classes"), ("BboxHead", "boxes"), ("LandmarkHead", "points"))
_FIELDS = (
    ("conv3X3", "three"),
    ("conv5X5_1", "five_first"),
    ("conv5X5_2", "five"),
    ("conv7X7_2", "seven_first"),
    ("conv7x7_3", "seven"),
)

PYTORCH = Layout(
    name="retinaface (PyTorch)",
    renames=(
        (r"^module\.", ""),
        *((rf"^body\.layer{stage + 1}\.", f"body.layers.{stage}.") for stage in range(4)),
        *((rf"^fpn\.output{level + 1}\.", f"pyramid.lateral.{level}.") for level in range(3)),
        *((rf"^fpn\.merge{level + 1}\.", f"pyramid.merge.{level}.") for level in range(2)),
        *(
            (rf"^ssh{level + 1}\.{published}\.", f"context.{level}.{field}.")
            for level in range(3)
            for published, field in _FIELDS
        ),
        *((rf"^{published}\.(\d)\.conv1x1\.", rf"heads.{head}.\1.") for published, head in _HEADS),
    ),
    vocabulary=FIVE_FACE,
)

LAYOUTS = (PYTORCH,)
