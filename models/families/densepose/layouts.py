"""Published checkpoints of DensePose: detectron2's, with the decoder or the legacy head."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.rcnn.layouts import DETECTRON2 as DETECTOR

_CONVOLUTIONS = range(8)
_PREDICTORS = {"ann_index": "coarse", "index_uv": "fine", "u": "u", "v": "v"}

DETECTRON2 = replace(
    DETECTOR,
    renames=(
        *DETECTOR.renames,
        # A doubling behind each convolution has a number too.
        *(
            (
                rf"^roi_heads\.decoder\.p{level + 2}\.{2 * index}\.",
                f"surface_head.decoder.levels.{level}.{index}.",
            )
            for level in range(4)
            for index in range(max(level, 1))
        ),
        (r"^roi_heads\.decoder\.predictor\.", "surface_head.decoder.predictor."),
        *(
            (
                rf"^roi_heads\.densepose_head\.body_conv_fcn{index + 1}\.",
                f"surface_head.convolutions.{index}.",
            )
            for index in _CONVOLUTIONS
        ),
        *(
            (rf"^roi_heads\.densepose_predictor\.{name}_lowres\.", f"surface_head.{own}.")
            for name, own in _PREDICTORS.items()
        ),
    ),
    vocabulary=Vocabulary(COCO_THINGS[:1]),
)
"""The legacy head has no decoder and the same names otherwise."""
