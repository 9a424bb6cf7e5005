"""The configs that the entries of Keypoint R-CNN begin from, each made of the one with masks."""

from __future__ import annotations

from msgspec.structs import replace

from edgewise.models.families.rcnn import variants
from edgewise.models.families.rcnn.config import InputConfig, KeypointConfig, RcnnConfig
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.runtime.contract.postprocessing import PointScore

TORCHVISION_V1 = RcnnConfig(class_count=1, mask=None, keypoint_count=17)

DETECTRON2 = replace(
    variants.DETECTRON2,
    class_count=1,
    mask=None,
    keypoint_count=17,
    keypoints=KeypointConfig(point_score=PointScore.PROBABILITY, point_threshold=0.05, pixel_numbers=False),
    training=replace(
        variants.DETECTRON2.training,
        proposals=replace(variants.DETECTRON2.training.proposals, kept=1500),
        box_beta=0.5,
    ),
)

TINY = replace(
    variants.TINY,
    class_count=1,
    mask=None,
    image=InputConfig(),
    backbone=ResNetConfig(depths=(2, 3, 3, 1), widths=(16, 32, 64, 80), expansion=2, stem_width=16),
    pyramid_channels=32,
    box_channels=64,
    keypoint_count=17,
    keypoints=KeypointConfig(
        convolutions=4,
        channels=32,
        point_score=PointScore.PROBABILITY,
        point_threshold=0.05,
        pixel_numbers=False,
        positives_limit=16,
    ),
    decoding=replace(variants.TINY.decoding, slots=20),
)
"""The backbone of retinanet-tiny. OKS AP counts 20 people an image."""

MICRO = replace(
    variants.MICRO,
    class_count=1,
    mask=None,
    keypoint_count=17,
    keypoints=replace(TINY.keypoints, bins=7, convolutions=2, channels=8),
)
"""The smallest that has every part: for tests."""
