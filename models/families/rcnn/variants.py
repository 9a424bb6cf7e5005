"""The configs that entries begin from, with masks: the published ones, a tiny one and the smallest."""

from __future__ import annotations

import msgspec

from edgewise.models.families.rcnn.config import (
    Conventions,
    DecodingConfig,
    InputConfig,
    MaskConfig,
    RcnnConfig,
    TrainingConfig,
)
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.models.layers.two_stage.proposal_stage import Divisor, ProposalConfig
from edgewise.models.layers.two_stage.sampling import AnchorSampling, RoiSampling
from edgewise.runtime.contract.postprocessing import MaskRule
from edgewise.runtime.contract.preprocessing import ColourOrder, SideRounding

NOT_EMPTY = 1e-9
"""Pixels; detectron2 drops proposals with a side of 0."""

TORCHVISION_V1 = RcnnConfig()

TORCHVISION_V2 = RcnnConfig(
    batch_norm_epsilon=1e-5,
    freeze_batch_norm=False,
    frozen_stages=0,
    norm=True,
    proposal_convolutions=2,
    box_convolutions=4,
    box_layers=1,
)

DETECTRON2 = RcnnConfig(
    rounding=SideRounding.NEAREST,
    image=InputConfig(colour=ColourOrder.BGR, scale=1.0, mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0)),
    conventions=Conventions(
        background_first=False,
        category_rows=False,
        rounded_anchors=False,
        half_pixel=True,
        level_epsilon=1e-8,
        level_epsilon_inside=True,
        smallest_box=0.0,
    ),
    backbone=ResNetConfig(stride_on_first=True),
    batch_norm_epsilon=1e-5,
    mask=MaskConfig(target_threshold=0.5, target_half_pixel=True, rule=MaskRule.PASTE_ALIGNED),
    training=TrainingConfig(
        proposals=ProposalConfig(candidates=2000, kept=1000, smallest=NOT_EMPTY),
        anchor_beta=0.0,
        box_beta=0.0,
        divisor=Divisor.WHOLE_SAMPLE,
    ),
    decoding=DecodingConfig(proposals=ProposalConfig(rounds=24, smallest=NOT_EMPTY)),
)

TINY = RcnnConfig(
    input_size=(192, 192),
    shortest=192,
    longest=192,
    class_count=6,
    image=InputConfig(scale=1.0, mean=(123.68, 116.78, 103.94), std=(58.40, 57.12, 57.38)),
    backbone=ResNetConfig(depths=(2, 3, 3, 2), widths=(16, 32, 64, 80), expansion=2, stem_width=16),
    batch_norm_epsilon=1e-5,
    freeze_batch_norm=False,
    frozen_stages=0,
    pyramid_channels=48,
    pyramid_extra=False,
    anchor_sizes=((16.0, 22.8), (32.0, 45.6), (64.0, 91.2), (128.0, 182.4)),
    canonical_size=96.0,
    box_bins=5,
    box_channels=80,
    mask=MaskConfig(convolutions=2, channels=48, positives_limit=16),
    training=TrainingConfig(
        proposals=ProposalConfig(candidates=256, kept=256, smallest=1e-3),
        anchors=AnchorSampling(count=128),
        regions=RoiSampling(count=64),
    ),
    decoding=DecodingConfig(
        proposals=ProposalConfig(candidates=256, kept=128, rounds=24, smallest=1e-3), candidates=256, slots=50
    ),
)
"""A toy of the same make: the backbone of yolact-tiny, anchors of 16 to 182 pixels on strides 4 to 32."""

MICRO = msgspec.structs.replace(
    TINY,
    input_size=(64, 96),
    shortest=64,
    longest=96,
    class_count=3,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8), expansion=2, stem_width=4),
    pyramid_channels=8,
    pyramid_extra=True,
    norm=True,
    anchor_sizes=((8.0,), (16.0,), (32.0,), (48.0,), (64.0,)),
    proposal_convolutions=2,
    canonical_size=24.0,
    box_convolutions=1,
    box_channels=16,
    mask=MaskConfig(bins=7, convolutions=2, channels=8),
    training=msgspec.structs.replace(
        TINY.training,
        proposals=ProposalConfig(candidates=40, kept=40, smallest=1e-3),
        anchors=AnchorSampling(count=32),
        regions=RoiSampling(count=24),
    ),
    decoding=DecodingConfig(
        proposals=ProposalConfig(candidates=40, kept=60, rounds=2, smallest=1e-3),
        candidates=60,
        rounds=2,
        slots=24,
    ),
)
"""The smallest that has every part: for tests."""
