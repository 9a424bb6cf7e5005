"""The one number of each task, and its parts."""

from edgewise.models.metrics.keypoint_accuracy import KeypointAccuracy as KeypointAccuracy
from edgewise.models.metrics.mask_ap import MaskAp as MaskAp
from edgewise.models.metrics.mask_ap import MaskApMetric as MaskApMetric
from edgewise.models.metrics.mask_ap import mask_ap as mask_ap
from edgewise.models.metrics.measured import Measured as Measured
from edgewise.models.metrics.measured import Metric as Metric
from edgewise.models.metrics.panoptic_quality import PanopticQuality as PanopticQuality
from edgewise.models.metrics.task import metric_of as metric_of
