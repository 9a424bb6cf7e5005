"""Datasets in COCO's formats: what models train on and are measured by."""

from edgewise.models.datasets.coco_file import CocoRle as CocoRle
from edgewise.models.datasets.coco_file import decode_segmentation as decode_segmentation
from edgewise.models.datasets.dataset import Dataset as Dataset
from edgewise.models.datasets.instances import CocoInstances as CocoInstances
from edgewise.models.datasets.keypoints import CocoKeypoints as CocoKeypoints
from edgewise.models.datasets.network_input import to_network as to_network
from edgewise.models.datasets.opening import open_dataset as open_dataset
from edgewise.models.datasets.panoptic import CocoPanoptic as CocoPanoptic
