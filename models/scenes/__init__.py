"""Seeded synthetic scenes: things with masks, stuff regions, and articulated figures with keypoints."""

from edgewise.models.scenes.dataset import write_dataset as write_dataset
from edgewise.models.scenes.face_dataset import FaceScene as FaceScene
from edgewise.models.scenes.face_dataset import render_face_scene as render_face_scene
from edgewise.models.scenes.face_dataset import write_face_dataset as write_face_dataset
from edgewise.models.scenes.scene import Scene as Scene
from edgewise.models.scenes.scene import Thing as Thing
from edgewise.models.scenes.scene import render_scene as render_scene
from edgewise.models.scenes.vocabulary import KEYPOINTS as KEYPOINTS
from edgewise.models.scenes.vocabulary import LABELS as LABELS
from edgewise.models.scenes.vocabulary import STUFF_LABELS as STUFF_LABELS
