"""Keypoints as tasks: in given crops, and of people or faces that are to be found first."""

from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.keypoints.faces_dataset import CocoFaces
from edgewise.models.tasks.keypoints.faces_metric import FacePrecision
from edgewise.models.tasks.keypoints.metric import KeypointAccuracy
from edgewise.models.tasks.keypoints.people_dataset import CocoPeople
from edgewise.models.tasks.keypoints.people_metric import PeoplePrecision
from edgewise.models.tasks.task import Task

KEYPOINTS = Task("keypoints", CocoKeypoints, KeypointAccuracy())
PEOPLE = Task("people", CocoPeople, PeoplePrecision())
FACES = Task("faces", CocoFaces, FacePrecision())
