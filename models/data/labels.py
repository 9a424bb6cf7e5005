"""Class lists of public datasets."""

from __future__ import annotations

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.runtime.contract.manifest import ClassKind, ClassLabel, KeypointLayout

_COCO_NAMES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
    9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench",
    16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear",
    24: "zebra", 25: "giraffe", 27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase",
    34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
    40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle",
    46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza", 60: "donut",
    61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet",
    72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone", 78: "microwave",
    79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book", 85: "clock", 86: "vase",
    87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip

COCO_THINGS: tuple[ClassLabel, ...] = tuple(ClassLabel(id=id, name=name) for id, name in _COCO_NAMES.items())
"""COCO's 80 things in the order of published models; `id` is the dataset's category id, 1..90 with gaps."""

MPII_PEOPLE = Vocabulary(
    classes=(ClassLabel(id=1, name="person"),),
    keypoints=KeypointLayout(
        names=(
            *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
            *("pelvis", "thorax", "neck", "head"),
            *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
        ),
        flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
        limbs=(
            *((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5)),
            *((6, 7), (7, 8), (8, 9)),
            *((10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15)),
        ),
    ),
)
"""MPII Human Pose: sixteen joints of a person; `head` is its top. The dataset has no similarity constants."""

COCO_PEOPLE = Vocabulary(
    classes=COCO_THINGS[:1],
    keypoints=KeypointLayout(
        names=(
            *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
            *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
            *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
        ),
        flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
        limbs=(
            *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6)),
            *((5, 7), (7, 9), (6, 8), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
        ),
        sigmas=(
            *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
            *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
        ),
    ),
)
"""COCO's people: seventeen points, with their limbs and similarity constants."""

_COCO_STUFF_NAMES = {
    92: "banner", 93: "blanket", 95: "bridge", 100: "cardboard", 107: "counter", 109: "curtain",
    112: "door-stuff", 118: "floor-wood", 119: "flower", 122: "fruit", 125: "gravel", 128: "house",
    130: "light", 133: "mirror-stuff", 138: "net", 141: "pillow", 144: "platform", 145: "playingfield",
    147: "railroad", 148: "river", 149: "road", 151: "roof", 154: "sand", 155: "sea", 156: "shelf",
    159: "snow", 161: "stairs", 166: "tent", 168: "towel", 171: "wall-brick", 175: "wall-stone",
    176: "wall-tile", 177: "wall-wood", 178: "water-other", 180: "window-blind", 181: "window-other",
    184: "tree-merged", 185: "fence-merged", 186: "ceiling-merged", 187: "sky-other-merged",
    188: "cabinet-merged", 189: "table-merged", 190: "floor-other-merged", 191: "pavement-merged",
    192: "mountain-merged", 193: "grass-merged", 194: "dirt-merged", 195: "paper-merged",
    196: "food-other-merged", 197: "building-other-merged", 198: "rock-merged", 199: "wall-other-merged",
    200: "rug-merged",
}  # fmt: skip

COCO_STUFF: tuple[ClassLabel, ...] = tuple(
    ClassLabel(id=id, name=name, kind=ClassKind.STUFF) for id, name in _COCO_STUFF_NAMES.items()
)
"""The 53 stuff classes of COCO's panoptic challenge, by rising category id."""

COCO_PANOPTIC = Vocabulary((*COCO_THINGS, *COCO_STUFF))
"""COCO's panoptic challenge: 80 things, 53 stuff classes."""

CITYSCAPES_THINGS: tuple[ClassLabel, ...] = tuple(
    ClassLabel(id=id, name=name)
    for id, name in (
        (24, "person"),
        (25, "rider"),
        (26, "car"),
        (27, "truck"),
        (28, "bus"),
        (31, "train"),
        (32, "motorcycle"),
        (33, "bicycle"),
    )
)
"""The things of the Cityscapes evaluation; `id` is the dataset's label id."""

CITYSCAPES_STUFF: tuple[ClassLabel, ...] = tuple(
    ClassLabel(id=id, name=name, kind=ClassKind.STUFF)
    for id, name in (
        (7, "road"),
        (8, "sidewalk"),
        (11, "building"),
        (12, "wall"),
        (13, "fence"),
        (17, "pole"),
        (19, "traffic light"),
        (20, "traffic sign"),
        (21, "vegetation"),
        (22, "terrain"),
        (23, "sky"),
    )
)
"""The stuff classes of the Cityscapes evaluation."""

CITYSCAPES_PANOPTIC = Vocabulary((*CITYSCAPES_THINGS, *CITYSCAPES_STUFF))
"""Cityscapes: 8 things, 11 stuff classes."""
