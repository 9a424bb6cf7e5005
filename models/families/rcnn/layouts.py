"""Published checkpoints of R-CNNs: torchvision's state_dicts, of its old files too, and detectron2's."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.labels import COCO_PEOPLE, COCO_THINGS
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.layout import Layout

_MASK_CONVOLUTIONS = range(4)
_KEYPOINT_CONVOLUTIONS = range(8)

TORCHVISION = Layout(
    name="torchvision",
    renames=(
        (r"^backbone\.body\.(conv1|bn1)\.", r"backbone.\1."),
        *((rf"^backbone\.body\.layer{stage + 1}\.", f"backbone.layers.{stage}.") for stage in range(4)),
        # A number behind the level's: convolution 0 and normalisation 1. Old files have none.
        (r"^backbone\.fpn\.inner_blocks\.(\d)\.1\.", r"fpn.lateral.\1.norm."),
        (r"^backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?", r"fpn.lateral.\1."),
        (r"^backbone\.fpn\.layer_blocks\.(\d)\.1\.", r"fpn.output.\1.norm."),
        (r"^backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?", r"fpn.output.\1."),
        (r"^rpn\.head\.conv\.1\.0\.", "proposal_head.further.0."),
        (r"^rpn\.head\.conv\.(?:0\.0\.)?", "proposal_head.conv."),
        (r"^rpn\.head\.cls_logits\.", "proposal_head.objectness."),
        (r"^rpn\.head\.bbox_pred\.", "proposal_head.deltas."),
        (r"^roi_heads\.box_head\.(\d)\.1\.", r"box_head.convolutions.\1.norm."),
        (r"^roi_heads\.box_head\.(\d)\.0\.", r"box_head.convolutions.\1."),
        (r"^roi_heads\.box_head\.5\.", "box_head.fc6."),
        (r"^roi_heads\.box_(head|predictor)\.", "box_head."),
        (r"^roi_heads\.mask_head\.(\d)\.1\.", r"mask_head.convolutions.\1.norm."),
        (r"^roi_heads\.mask_head\.(\d)\.0\.", r"mask_head.convolutions.\1."),
        *(
            (rf"^roi_heads\.mask_head\.mask_fcn{index + 1}\.", f"mask_head.convolutions.{index}.")
            for index in _MASK_CONVOLUTIONS
        ),
        (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.doubling."),
        (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.score."),
        *(
            # A ReLU behind each convolution has a number too.
            (rf"^roi_heads\.keypoint_head\.{2 * index}\.", f"keypoint_head.convolutions.{index}.")
            for index in _KEYPOINT_CONVOLUTIONS
        ),
        (r"^roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint_head.score."),
    ),
    vocabulary=Vocabulary(COCO_THINGS),
)

DETECTRON2 = Layout(
    name="detectron2 (weights CC BY-SA 3.0)",
    renames=(
        (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.bn1."),
        (r"^backbone\.bottom_up\.stem\.conv1\.", "backbone.conv1."),
        *((rf"^backbone\.bottom_up\.res{stage + 2}\.", f"backbone.layers.{stage}.") for stage in range(4)),
        (r"^(backbone\.layers\.\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
        (r"^(backbone\.layers\.\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
        (r"^(backbone\.layers\.\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
        *((rf"^backbone\.fpn_(lateral|output){level + 2}\.", rf"fpn.\1.{level}.") for level in range(4)),
        (r"^proposal_generator\.rpn_head\.conv\.", "proposal_head.conv."),
        (r"^proposal_generator\.rpn_head\.objectness_logits\.", "proposal_head.objectness."),
        (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "proposal_head.deltas."),
        (r"^roi_heads\.box_head\.fc1\.", "box_head.fc6."),
        (r"^roi_heads\.box_head\.fc2\.", "box_head.fc7."),
        (r"^roi_heads\.box_predictor\.", "box_head."),
        *(
            (rf"^roi_heads\.mask_head\.mask_fcn{index + 1}\.", f"mask_head.convolutions.{index}.")
            for index in _MASK_CONVOLUTIONS
        ),
        (r"^roi_heads\.mask_head\.deconv\.", "mask_head.doubling."),
        (r"^roi_heads\.mask_head\.predictor\.", "mask_head.score."),
        *(
            (rf"^roi_heads\.keypoint_head\.conv_fcn{index + 1}\.", f"keypoint_head.convolutions.{index}.")
            for index in _KEYPOINT_CONVOLUTIONS
        ),
        (r"^roi_heads\.keypoint_head\.score_lowres\.", "keypoint_head.score."),
    ),
    dropped=(r"proposal_generator\.anchor_generator\.", r"pixel_(mean|std)$"),
    vocabulary=Vocabulary(COCO_THINGS),
)

LAYOUTS = (TORCHVISION, DETECTRON2)

KEYPOINT_LAYOUTS = tuple(replace(layout, vocabulary=COCO_PEOPLE) for layout in LAYOUTS)
"""The same of models that find people and their points."""
