"""The device runtime: manifest, bundle, preprocessing, engines, results. Knows neither torch nor onnx.

The names below are loaded on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgewise.runtime.errors import (
    BackendError as BackendError,
)
from edgewise.runtime.errors import (
    BundleError as BundleError,
)
from edgewise.runtime.errors import (
    EdgewiseError as EdgewiseError,
)
from edgewise.runtime.errors import (
    ManifestError as ManifestError,
)
from edgewise.runtime.errors import (
    ResultError as ResultError,
)
from edgewise.runtime.errors import (
    SourceError as SourceError,
)

if TYPE_CHECKING:
    from edgewise.runtime.box_sources import CocoBoxes as CocoBoxes
    from edgewise.runtime.box_sources import DetectorBoxes as DetectorBoxes
    from edgewise.runtime.bundle import Bundle as Bundle
    from edgewise.runtime.results import Instances as Instances
    from edgewise.runtime.results import Keypoints as Keypoints
    from edgewise.runtime.results import Panoptic as Panoptic
    from edgewise.runtime.results import Result as Result
    from edgewise.runtime.session import Session as Session
    from edgewise.runtime.sources import Frame as Frame
    from edgewise.runtime.sources import open_source as open_source
    from edgewise.runtime.views import FrameBoxes as FrameBoxes

_LAZY = {
    "Bundle": "bundle",
    "CocoBoxes": "box_sources",
    "DetectorBoxes": "box_sources",
    "Frame": "sources",
    "FrameBoxes": "views",
    "Instances": "results",
    "Keypoints": "results",
    "Panoptic": "results",
    "Result": "results",
    "Session": "session",
    "open_source": "sources",
}

__all__ = [
    "BackendError",
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
