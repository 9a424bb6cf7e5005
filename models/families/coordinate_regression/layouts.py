"""Published checkpoints of coordinate regressors: mmpose's, PFLD-pytorch's, pytorch_face_landmark's."""

from __future__ import annotations

from edgewise.models.data.face_labels import IBUG_FACE, WFLW_FACE
from edgewise.models.families.layout import Layout

MMPOSE = Layout(
    name="DeepPose (mmpose, WFLW)",
    renames=(
        *((rf"^backbone\.layer{stage + 1}\.", f"backbone.layers.{stage}.") for stage in range(4)),
        (r"^(?:keypoint_)?head\.fc\.", "fc."),  # `keypoint_head` before mmpose 1.0
    ),
    vocabulary=WFLW_FACE,
)

PFLD = Layout(
    name="PFLD (PFLD-pytorch, WFLW)",
    renames=(
        (r"^conv1\.", "stem_unit.0."),
        (r"^bn1\.", "stem_unit.1."),
        (r"^conv2\.", "second_unit.0."),
        (r"^bn2\.", "second_unit.1."),
        (r"\.conv\.([01])\.", r".expand.\1."),
        *((rf"\.conv\.{number + 3}\.", f".depthwise.{number}.") for number in range(2)),
        *((rf"\.conv\.{number + 6}\.", f".project.{number}.") for number in range(2)),
        (r"^conv3_1\.", "quarter.0."),
        *((rf"^block3_{number + 1}\.", f"quarter.{number}.") for number in range(1, 5)),
        (r"^conv4_1\.", "halving."),
        (r"^conv5_1\.", "eighth.0."),
        *((rf"^block5_{number + 1}\.", f"eighth.{number}.") for number in range(1, 6)),
        (r"^conv6_1\.", "narrowing."),
        (r"^conv7\.", "sixteenth."),
        (r"^conv8\.", "whole."),
    ),
    dropped=(r"bn8\.",),  # made and never called
    vocabulary=WFLW_FACE,
)

GDCONV = Layout(
    name="MobileNetV2 with GDConv (pytorch_face_landmark, 68 points)",
    renames=(
        (r"^base_net\.0\.", "features."),
        (r"^features\.1\.conv\.0\.", "features.1.depthwise."),
        *((rf"^features\.1\.conv\.{number + 1}\.", f"features.1.project.{number}.") for number in range(2)),
        (r"\.conv\.0\.(\d)\.", r".expand.\1."),
        (r"\.conv\.1\.(\d)\.", r".depthwise.\1."),
        *((rf"\.conv\.{number + 2}\.", f".project.{number}.") for number in range(2)),
        *((rf"^linear{layer}\.{part}\.", f"{name}.{number}.")
          for layer, name in ((7, "weigh"), (1, "points")) for number, part in enumerate(("conv", "bn"))),
    ),
    dropped=(r"pretrain_net\.",),  # the features once more, and the classifier that they were trained with
    vocabulary=IBUG_FACE,
)  # fmt: skip

LAYOUTS = (MMPOSE, PFLD, GDCONV)
