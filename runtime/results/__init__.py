"""What a session returns: one type for each kind of task, in the coordinates of the frame."""

from __future__ import annotations

from edgewise.runtime.results.instances import Instances as Instances
from edgewise.runtime.results.keypoints import Keypoints as Keypoints
from edgewise.runtime.results.panoptic import Panoptic as Panoptic
from edgewise.runtime.results.result import Result as Result
