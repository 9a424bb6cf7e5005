"""The models that edgewise can build, by name. Adding one is adding a family's folder and its line here."""

from __future__ import annotations

import difflib

from edgewise.models.families.centernet import family as centernet
from edgewise.models.families.coordinate_regression import family as coordinate_regression
from edgewise.models.families.cornernet import family as cornernet
from edgewise.models.families.cornernet import triplets as centernet_triplets
from edgewise.models.families.densepose import family as densepose
from edgewise.models.families.family import ModelEntry
from edgewise.models.families.heatmap_pose import hrnet, hrnet_face, simple_baseline
from edgewise.models.families.hourglass import family as hourglass
from edgewise.models.families.rcnn import faster_rcnn, keypoint_rcnn, mask_rcnn
from edgewise.models.families.retinaface import family as retinaface
from edgewise.models.families.retinanet import family as retinanet
from edgewise.models.families.upsnet import family as upsnet
from edgewise.models.families.yolact import family as yolact
from edgewise.models.families.yolact import plus as yolact_plus
from edgewise.runtime.system.errors import ModelError

_FOLDERS = (
    yolact,
    yolact_plus,
    upsnet,
    hourglass,
    retinanet,
    centernet,
    cornernet,
    centernet_triplets,
    mask_rcnn,
    faster_rcnn,
    keypoint_rcnn,
    densepose,
    coordinate_regression,
    simple_baseline,
    hrnet,
    hrnet_face,
    retinaface,
)

FAMILIES = tuple(folder.FAMILY for folder in _FOLDERS)

_ENTRIES = {entry.name: entry for folder in _FOLDERS for entry in folder.ENTRIES}


def register(entry: ModelEntry) -> None:
    """Make a model known by its name, as those of the families are.

    Raises:
        ModelError: The name is taken.
    """
    if entry.name in _ENTRIES:
        raise ModelError(f"a model is called {entry.name!r} already", hint="choose another name")
    _ENTRIES[entry.name] = entry


def unregister(name: str) -> None:
    """Forget a model that `register` added; ModelError where no such model is known."""
    find(name)
    del _ENTRIES[name]


def names() -> tuple[str, ...]:
    """All model names, in the order of the registry."""
    return tuple(_ENTRIES)


def find(name: str) -> ModelEntry:
    """The entry of a name.

    Raises:
        ModelError: No such model; the message lists the known ones.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    close = difflib.get_close_matches(name, _ENTRIES, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ModelError(f"unknown model {name!r}", hint=f"{meant}known models: {', '.join(_ENTRIES)}")
