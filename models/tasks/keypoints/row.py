"""Keypoints as a task."""

from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.keypoints.metric import KeypointAccuracy
from edgewise.models.tasks.task import Task

KEYPOINTS = Task("keypoints", CocoKeypoints, KeypointAccuracy())
