"""Slots become instances (YOLACT, Mask R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import PastedInstances, PrototypeInstances
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.results.outputs import Outputs, only_look
from edgewise.runtime.results.slots import read_things


def decode_instances(
    spec: PrototypeInstances | PastedInstances,
    manifest: Manifest,
    looks: Looks,
    outputs: Sequence[Outputs],
) -> Instances:
    """The instances of the one look at a whole frame; see `read_things` for the rule.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or there are several looks.
    """
    geometry, only = only_look(looks, outputs)
    found = read_things(spec, len(manifest.classes), only, geometry)
    return Instances(
        boxes=found.boxes,
        scores=found.scores,
        classes=found.classes,
        masks=found.masks,
        labels=manifest.classes,
        frame_size=geometry.source_size,
        display_threshold=spec.display_threshold,
        settled=found.settled,
    )
