"""What holds of every family of the registry, asked at its micro config; no family is named here."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache, singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgewise.exporter.from_torch.onnx_export import export_onnx
from edgewise.models import registry
from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.family import Family, ModelEntry
from edgewise.models.families.layout import map_state
from edgewise.models.measuring.tasks import task_of
from edgewise.models.scenes import write_dataset
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.models.tasks.panoptic.targets import PanopticTargets
from edgewise.models.tasks.surface.targets import SurfaceTargets
from edgewise.models.training.batches import Batch, BatchSource
from edgewise.models.training.loop import in_bgr
from edgewise.runtime.contract.encoding import decode, encode
from edgewise.runtime.contract.manifest import Graph, Provenance

from .declared_outputs import check_declared
from .published_keys import KEYS, published_table

pytestmark = pytest.mark.usefixtures("one_thread")

PROVENANCE = Provenance(definition="registry:micro")
COUNT = ".num_batches_tracked"
UNREAD = {
    "centernet-dla34": ("base.fc.", "base.level3.project.", "base.level4.project."),
    "mobilenetv2-gdconv": ("pretrain_net.", "module.pretrain_net."),
    "pfld": ("bn8.",),
}
"""Tensors of published files that the published code never reads, by how their keys begin."""

NOT_EXPORTABLE = {"NonZero", "NonMaxSuppression", "ScatterND", "GatherND", "Loop", "If", "Scan"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A family's micro model that names what the scenes name, and a batch of them."""

    entry: ModelEntry
    vocabulary: Vocabulary
    batch: Batch

    def build(self, seed: int = 3) -> nn.Module:
        torch.manual_seed(seed)
        return self.entry.build()

    @property
    def images(self) -> Tensor:
        return self.entry.normalise(self.batch.frames)

    @property
    def graph(self) -> Graph:
        return self.entry.manifest(self.vocabulary, PROVENANCE).graphs["main"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("families") / "scenes", 6, 21, 96)


@pytest.fixture(params=registry.FAMILIES, ids=lambda family: family.name)
def case(request: pytest.FixtureRequest, scenes: Path) -> Case:
    return _case(request.param, scenes)


@lru_cache(maxsize=len(registry.FAMILIES))
def _case(family: Family, scenes: Path) -> Case:
    dataset = task_of(family.task).dataset.open(scenes)
    entry = next(entry for entry in map(registry.find, registry.names()) if entry.family is family)
    entry = dataclasses.replace(entry, config=family.micro).fit(dataset.vocabulary)
    source = BatchSource(dataset, in_bgr(entry.preprocess), NO_AUGMENTATION, 4, seed=1)
    return Case(entry, dataset.vocabulary, source.at(0))


def lively(module: nn.Module) -> nn.Module:
    """Weights and statistics as a trained network might have them: every head is sure of something."""
    torch.manual_seed(5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.2, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.5 / math.sqrt(parameter[0].numel()))
        else:
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@singledispatch
def without_objects(target: Any) -> Any:
    raise NotImplementedError(f"say here what {type(target).__name__} is without objects")


@without_objects.register
def _(target: InstanceTargets) -> InstanceTargets:
    points = None if target.points is None else target.points[:0]
    return InstanceTargets(target.boxes[:0], target.classes[:0], target.masks[:0], target.crowd_boxes, points)


@without_objects.register
def _(target: PanopticTargets) -> PanopticTargets:
    return PanopticTargets(without_objects(target.instances), torch.full_like(target.semantic, -1))


@without_objects.register
def _(target: KeypointTargets) -> KeypointTargets:
    return KeypointTargets(target.points * torch.tensor([1.0, 1.0, 0.0]))


@without_objects.register
def _(target: SurfaceTargets) -> SurfaceTargets:
    return SurfaceTargets(
        target.boxes[:0], target.classes[:0], target.crowd_boxes, target.points[:0], target.masks[:0]
    )


# ---------------------------------------------------------------- training


def test_a_seeded_build_is_reproducible(case: Case) -> None:
    first, again, other = (case.build(seed).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_every_trainable_parameter_gets_a_gradient(case: Case) -> None:
    module = lively(case.build()).train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()  # with the batch's own statistics a bias in front of it would be taken away
    terms = case.entry.loss(module, case.images, case.batch.targets)
    assert all(math.isfinite(float(term.detach())) and float(term.detach()) > 0 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name
            assert bool(parameter.grad.any()), name


def test_losses_without_objects_are_finite(case: Case) -> None:
    module = case.build().train()
    terms = case.entry.loss(module, case.images, [without_objects(target) for target in case.batch.targets])
    assert all(math.isfinite(float(term.detach())) for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in module.parameters() if p.grad is not None)


# ---------------------------------------------------------------- deployment


def test_the_deploy_module_gives_what_the_manifest_declares(case: Case) -> None:
    manifest = case.entry.manifest(case.vocabulary, PROVENANCE)
    assert decode(encode(manifest)) == manifest
    with torch.inference_mode():
        outputs = case.entry.deploy(lively(case.build()).eval())(case.batch.frames[:1])
    check_declared(manifest.graphs["main"], outputs)
    for spec, value in zip(manifest.graphs["main"].outputs, outputs, strict=False):
        constant = spec.value_range is not None and len(set(spec.value_range)) == 1  # of one class
        assert constant or value.numel() == 1 or bool(value.min() < value.max()), f"{spec.name} says nothing"


def test_the_deploy_module_computes_what_the_definition_computes(case: Case) -> None:
    assert case.entry.family.raw_heads is not None
    module = lively(case.build()).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.inference_mode():
        outputs = case.entry.deploy(module).eval()(case.batch.frames[:1])
        assert module.training
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
        wanted = case.entry.family.raw_heads(module.eval()(case.images[:1]))
    found = {
        spec.name: value
        for spec, value in zip((*case.graph.outputs, *case.graph.probes), outputs, strict=True)
    }
    assert wanted.keys() >= {spec.name for spec in case.graph.probes}
    for name, value in wanted.items():
        assert float((found[name] - value).abs().max()) <= 1e-4 * float(value.abs().max()), name


@pytest.mark.slow(seconds=60, reason="a two-stage graph is exported, and every pass compared")
def test_an_exported_frame_gives_what_torch_gives(case: Case) -> None:
    deployed = case.entry.deploy(lively(case.build()).eval())
    model = export_onnx(deployed, case.graph, [{"image": case.batch.frames[:1].numpy()}])
    operators = {node.op_type for node in model.graph.node}
    assert not operators & NOT_EXPORTABLE
    assert next(node.op_type for node in model.graph.node if node.op_type != "Constant") == "Cast"


# ---------------------------------------------------------------- entries


@pytest.mark.parametrize("name", registry.names())
def test_every_entry_says_where_it_comes_from(name: str) -> None:
    entry = registry.find(name)
    assert entry.family in registry.FAMILIES
    assert isinstance(entry.config, entry.family.config_type)
    assert entry.recipe.steps > 0
    assert np.isfinite([entry.recipe.rate(step) for step in (0, entry.recipe.steps - 1)]).all()
    assert bool(entry.licence) == (name in KEYS), "terms are those of published weights"
    for figure in entry.published:
        assert 0 < figure.value < 1
        assert figure.metric
        assert figure.dataset
        assert figure.source


@pytest.mark.parametrize("name", KEYS)
def test_published_keys_map_to_the_definition(name: str) -> None:
    """By exactly one layout that names as much as the model: no key is left over, missing or mis-shaped."""
    entry = registry.find(name)
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in entry.build().state_dict().items()}
        published = {key: torch.empty(shape) for key, shape in published_table(name).items()}
    if not any(key.endswith(COUNT) for key in published):  # frozen normalisation counts no batches
        wanted = {key: shape for key, shape in wanted.items() if not key.endswith(COUNT)}
    mapped = {layout: map_state(layout, published, wanted) for layout in entry.layouts}
    fitting = [
        layout
        for layout, found in mapped.items()
        if not found.problems and layout.vocabulary and layout.vocabulary.size == entry.vocabulary_size
    ]
    assert len(fitting) == 1, [found.problems[:5] for found in mapped.values()]
    dropped = tuple(key for key in mapped[fitting[0]].dropped if not key.startswith(UNREAD.get(name, "-")))
    assert not dropped
    assert mapped[fitting[0]].tensors.keys() == wanted.keys()
