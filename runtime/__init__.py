"""The device runtime: manifest, bundle, preprocessing, engines, results. Knows neither torch nor onnx.

The names below are loaded on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgewise.runtime.system.errors import BackendError as BackendError
from edgewise.runtime.system.errors import BundleError as BundleError
from edgewise.runtime.system.errors import EdgewiseError as EdgewiseError
from edgewise.runtime.system.errors import ManifestError as ManifestError
from edgewise.runtime.system.errors import ResultError as ResultError
from edgewise.runtime.system.errors import SourceError as SourceError

if TYPE_CHECKING:
    from edgewise.runtime.contract.bundle import Bundle as Bundle
    from edgewise.runtime.frames.looks import FrameBoxes as FrameBoxes
    from edgewise.runtime.frames.sources import Frame as Frame
    from edgewise.runtime.frames.sources import open_source as open_source
    from edgewise.runtime.kinds.boxes.result import Boxes as Boxes
    from edgewise.runtime.kinds.instances.result import Instances as Instances
    from edgewise.runtime.kinds.keypoints.result import Keypoints as Keypoints
    from edgewise.runtime.kinds.panoptic.result import Panoptic as Panoptic
    from edgewise.runtime.results.result import Result as Result
    from edgewise.runtime.walk.box_sources import CocoBoxes as CocoBoxes
    from edgewise.runtime.walk.box_sources import DetectorBoxes as DetectorBoxes
    from edgewise.runtime.walk.session import Session as Session

_LAZY = {
    "Boxes": "kinds.boxes.result",
    "Bundle": "contract.bundle",
    "CocoBoxes": "walk.box_sources",
    "DetectorBoxes": "walk.box_sources",
    "Frame": "frames.sources",
    "FrameBoxes": "frames.looks",
    "Instances": "kinds.instances.result",
    "Keypoints": "kinds.keypoints.result",
    "Panoptic": "kinds.panoptic.result",
    "Result": "results.result",
    "Session": "walk.session",
    "open_source": "frames.sources",
}

__all__ = [
    "BackendError",
    "Boxes",
    "Bundle",
    "BundleError",
    "CocoBoxes",
    "DetectorBoxes",
    "EdgewiseError",
    "Frame",
    "FrameBoxes",
    "Instances",
    "Keypoints",
    "ManifestError",
    "Panoptic",
    "Result",
    "ResultError",
    "Session",
    "SourceError",
    "open_source",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
