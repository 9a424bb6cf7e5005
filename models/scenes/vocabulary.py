"""The classes and keypoints of the synthetic scenes, in COCO's vocabulary.

Category ids: things 1..6, stuff 11..16. The figure's keypoints are COCO's seventeen, so tools written for
COCO person keypoints read the datasets unchanged.
"""

from __future__ import annotations

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel, KeypointLayout

THING_NAMES = ("person", "disc", "box", "triangle", "star", "ring")
STUFF_NAMES = ("sky", "mountain", "grass", "sand", "water", "road")

LABELS: tuple[ClassLabel, ...] = tuple(
    ClassLabel(id=1 + index, name=name) for index, name in enumerate(THING_NAMES)
)
"""The thing classes, in the order of instance models' class indices."""

STUFF_LABELS: tuple[ClassLabel, ...] = tuple(
    ClassLabel(id=11 + index, name=name, kind=ClassKind.STUFF) for index, name in enumerate(STUFF_NAMES)
)

KEYPOINT_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

_LIMB_NAMES = (
    ("left_ankle", "left_knee"),
    ("left_knee", "left_hip"),
    ("right_ankle", "right_knee"),
    ("right_knee", "right_hip"),
    ("left_hip", "right_hip"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
    ("left_shoulder", "right_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("nose", "left_eye"),
    ("nose", "right_eye"),
    ("left_eye", "left_ear"),
    ("right_eye", "right_ear"),
)

KEYPOINTS = KeypointLayout(
    names=KEYPOINT_NAMES,
    flip_pairs=tuple(
        (index, KEYPOINT_NAMES.index(name.replace("left_", "right_")))
        for index, name in enumerate(KEYPOINT_NAMES)
        if name.startswith("left_")
    ),
    limbs=tuple((KEYPOINT_NAMES.index(a), KEYPOINT_NAMES.index(b)) for a, b in _LIMB_NAMES),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)
"""COCO's layout: names, flip pairs, limbs and similarity constants."""
