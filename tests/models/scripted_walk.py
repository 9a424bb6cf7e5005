"""A walk whose network is a function of the test: outputs by name for a network input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgewise.runtime.contract.check import image_input
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.engines.base import HostState
from edgewise.runtime.walk.walk import Walk

Network = Callable[[np.ndarray], dict[str, np.ndarray]]
"""uint8 [1, h, w, 3] -> the graph's outputs by name."""


class Scripted(HostState):
    """A runner of one image input."""

    name = "scripted"

    def __init__(self, network: Network, image: str) -> None:
        self._network = network
        self._image = image

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return self._network(inputs[self._image])


def scripted_walk(network: Network, manifest: Manifest) -> Walk:
    """Frames through the function and the device's own preprocessing and decoding."""
    (graph,) = manifest.schedule.graphs
    return Walk(manifest, {graph: Scripted(network, image_input(manifest, graph))})
