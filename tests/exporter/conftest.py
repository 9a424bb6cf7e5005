"""What the exporter's tests share: the documented example's module on its way to a bundle."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from edgewise.exporter.bundle.goldens import drawn_frame
from edgewise.exporter.way.export import CanonicalGraph, canonical_graph, export_bundle
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import CheckpointMeta, save_checkpoint
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.scenes import LABELS
from edgewise.runtime.contract.bundle import Bundle

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def spots() -> ModuleType:
    """The module `examples/export_your_module.py`."""
    return load_example("export_your_module")


@pytest.fixture(scope="session")
def spot_samples(spots: ModuleType) -> Sequence[dict[str, np.ndarray]]:
    generator = np.random.default_rng(5)
    return [{"image": drawn_frame((spots.SIZE, spots.SIZE), generator)[None]} for _ in range(2)]


@pytest.fixture(scope="session")
def spots_canonical(spots: ModuleType, spot_samples: list[dict[str, np.ndarray]]) -> CanonicalGraph:
    return canonical_graph(spots.SpotFinder(), spots.draft_manifest().graphs["main"], spot_samples)


@pytest.fixture(scope="session")
def spots_bundle(spots: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The example's FP32 bundle; read only."""
    folder = tmp_path_factory.mktemp("spots") / "spots.bundle"
    return export_bundle({"main": spots.SpotFinder()}, spots.draft_manifest(), folder)


@pytest.fixture(scope="session")
def seeded_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of YOLACT-tiny with seeded weights, for the scenes' classes; read only."""
    entry = registry.find("yolact-tiny").with_config(class_count=len(LABELS))
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    meta = CheckpointMeta.of(entry, Vocabulary(tuple(LABELS)), origin="published", licence="terms")
    save_checkpoint(path, entry.build(), meta)
    return path
