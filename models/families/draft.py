"""The draft of a bundle's manifest: what a model says of itself before anything is exported."""

from __future__ import annotations

from importlib.metadata import version

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import Postprocess
from edgewise.runtime.contract.preprocessing import Preprocess


def draft_manifest(
    name: str,
    vocabulary: Vocabulary,
    provenance: Provenance,
    graph: Graph,
    preprocess: Preprocess,
    postprocess: Postprocess,
) -> Manifest:
    """A model of one graph; export adds files, precisions, calibration, goldens and budgets."""
    return Manifest(
        writer=f"edgewise {version('edgewise')}",
        name=name,
        classes=vocabulary.classes,
        keypoints=vocabulary.keypoints,
        provenance=provenance,
        graphs={"main": graph},
        preprocess=preprocess,
        postprocess=postprocess,
    )
