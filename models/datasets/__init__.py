"""Datasets in COCO's formats: what models train on and are measured by."""

from edgewise.models.datasets.coco_file import CocoRle as CocoRle
from edgewise.models.datasets.coco_file import decode_segmentation as decode_segmentation
from edgewise.models.datasets.instances import CocoInstances as CocoInstances
from edgewise.models.datasets.network_input import to_network as to_network
