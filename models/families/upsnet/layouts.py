"""Published checkpoints of UPSNet: the bare state_dict of the paper's code.

The weights are licensed for non-commercial use only, and edgewise neither ships nor fetches them: who imports
them answers for their use.
"""

from __future__ import annotations

from edgewise.models.data.labels import CITYSCAPES_PANOPTIC, COCO_PANOPTIC
from edgewise.models.families.layout import Layout

_RENAMES = (
    (r"^resnet_backbone\.conv1\.(conv1|bn1)\.", r"backbone.\1."),
    *((rf"^resnet_backbone\.res{stage + 2}\.layers\.", f"backbone.layers.{stage}.") for stage in range(4)),
    *((rf"^fpn\.fpn_p{level + 2}_1x1\.", f"fpn.lateral.{level}.") for level in range(4)),
    *((rf"^fpn\.fpn_p{level + 2}\.", f"fpn.output.{level}.") for level in range(4)),
    (r"^fpn\.fpn_gap\.", "fpn.context."),
    (r"^rpn\.conv_proposal\.0\.", "proposal_head.conv."),
    (r"^rpn\.cls_score\.", "proposal_head.objectness."),
    (r"^rpn\.bbox_pred\.", "proposal_head.deltas."),
    (r"^rcnn\.(fc6|fc7)\.0\.", r"box_head.\1."),
    (r"^rcnn\.", "box_head."),
    *(
        (rf"^mask_branch\.mask_conv{index + 1}\.0\.", f"mask_head.convolutions.{index}.")
        for index in range(4)
    ),
    (r"^mask_branch\.mask_deconv1\.0\.", "mask_head.doubling."),
    (r"^mask_branch\.mask_score\.", "mask_head.score."),
    (r"^fcn_head\.fcn_subnet\.conv\.(\d+)\.0\.", r"semantic_head.layers.\1."),
    (r"^fcn_head\.score\.", "semantic_head.score."),
)

COCO = Layout(
    name="upsnet coco (paper's code; non-commercial licence)", renames=_RENAMES, vocabulary=COCO_PANOPTIC
)

CITYSCAPES = Layout(
    name="upsnet cityscapes (paper's code; non-commercial licence)",
    renames=_RENAMES,
    vocabulary=CITYSCAPES_PANOPTIC,
)

LAYOUTS = (COCO, CITYSCAPES)
