"""Coordinate regression: losses against their formulas, published conventions, published files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import edgewise.models
from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_checkpoint
from edgewise.models.checkpoints.upstream import import_checkpoint
from edgewise.models.data.face_labels import WFLW_FACE
from edgewise.models.families.coordinate_regression.config import (
    MICRO,
    L1Loss,
    LossConfig,
    MobileNetNetwork,
    PfldNetwork,
    RegressionConfig,
    SmoothL1Loss,
    SoftWingLoss,
    SquaredLoss,
    Unit,
    WingLoss,
)
from edgewise.models.families.coordinate_regression.losses import losses, pfld_loss
from edgewise.models.families.coordinate_regression.network import AuxiliaryNetwork, build
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.contract.manifest import Provenance
from edgewise.runtime.contract.postprocessing import PointOrigin, RegressedKeypoints
from edgewise.runtime.contract.preprocessing import BoxSide, ColourOrder, SquareCrop
from edgewise.runtime.system.errors import CheckpointError

from .published_keys import published_table

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (32, 64)
PROVENANCE = Provenance(definition="tests")


def wing(x: float) -> float:
    return 10 * math.log(1 + x / 2) if x < 10 else x - (10 - 10 * math.log(1 + 10 / 2))


def soft_wing(x: float) -> float:
    return x if x < 2 else 20 * math.log(1 + x / 0.5) + 2 - 20 * math.log(1 + 2 / 0.5)


def smooth_l1(x: float) -> float:
    return 0.5 * x * x if x < 1 else x - 0.5


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize(
    ("kind", "formula", "averaged"),
    [
        (L1Loss(), abs, True),
        (SmoothL1Loss(), smooth_l1, True),
        (WingLoss(), wing, False),
        (SoftWingLoss(), soft_wing, False),
        (SquaredLoss(), lambda x: x * x, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_losses_are_their_formulas(
    kind, formula: Callable[[float], float], averaged: bool, unit: Unit
) -> None:
    """Over labelled points of both axes, in pixels or shares; each formula sees both of its pieces."""
    config = RegressionConfig(
        network=PfldNetwork(),
        keypoint_count=3,
        input_size=SIZE,
        losses=LossConfig(kind=kind, unit=unit, weight=3),
    )
    points = torch.tensor(
        [[[10.0, 8, 2], [60, 30, 1], [math.nan, 5, 0]], [[3.0, 4, 1], [9, 9, 2], [20, 20, 2]]]
    )
    predicted = torch.tensor([[[0.2, 0.3], [0.1, 0.9], [0.5, 0.5]], [[0.3, 0.3], [0.2, 0.28], [3.0, 9.0]]])
    total = 0.0
    for person in range(2):
        for point in range(3):
            if points[person, point, 2] > 0:
                for axis, length in enumerate((SIZE[1], SIZE[0])):
                    factor = length if unit is Unit.PIXEL else 1
                    wanted = float(points[person, point, axis]) / length
                    total += formula(abs(float(predicted[person, point, axis]) - wanted) * factor)
    wanted = 3 * total / (2 * 3 * 2 if averaged else 2)
    given = predicted.clone().requires_grad_()
    (term,) = losses(config, given, [KeypointTargets(each) for each in points]).values()
    assert float(term.detach()) == pytest.approx(wanted, rel=1e-5)
    term.backward()
    assert given.grad is not None
    assert bool(torch.isfinite(given.grad).all())
    assert not given.grad[0, 2].any()
    assert given.grad[1].any()


def test_pflds_loss_is_its_formula() -> None:
    """Rare attributes weigh more; a face without one weighs nothing, and one of the right pose as little."""
    torch.manual_seed(0)
    differences, angles, wanted = torch.rand(4, 5, 2), torch.rand(4, 3), torch.rand(4, 3)
    angles[2] = wanted[2]
    attributes = torch.tensor(
        [[1, 1, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0.0]]
    )
    total = 0.0
    for face in range(4):
        weight = 0.0
        for attribute in range(1, 6):
            share = sum(float(attributes[other, attribute]) for other in range(4)) / 4
            weight += float(attributes[face, attribute]) * (1 / share if share else 4)
        turned = sum(1 - math.cos(float(angles[face, axis] - wanted[face, axis])) for axis in range(3))
        total += turned * weight * float((differences[face] ** 2).sum())
    assert float(pfld_loss(differences, angles, wanted, attributes)) == pytest.approx(total / 4, rel=1e-5)
    alone = pfld_loss(differences[2:], angles[2:], wanted[2:], attributes[2:])
    assert float(alone) == pytest.approx(0, abs=1e-6)


def test_the_auxiliary_network_reads_pflds_early_features() -> None:
    network = build(RegressionConfig(network=PfldNetwork(), input_size=(112, 112))).eval()
    images = torch.rand(2, 3, 112, 112)
    early = network.early(images)
    assert early.shape == (2, 64, 28, 28)
    assert AuxiliaryNetwork().eval()(early).shape == (2, 3)
    assert torch.equal(network.points(early), network(images))


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (
            PfldNetwork(),
            1_264_804 - 2 * 128,
        ),  # the published count has the normalisation that is never called
        (MobileNetNetwork(), 2_223_872 + 1280 * 51 + 196 * 1282),
    ],
)
def test_published_sizes(network, parameters: int) -> None:
    config = RegressionConfig(network=network, input_size=(224, 224))
    if isinstance(network, PfldNetwork):
        config = msgspec.structs.replace(config, input_size=(112, 112))
    with torch.device("meta"):
        module = build(config)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


def test_published_conventions() -> None:
    deeppose, pfld, gdconv = (registry.find(name) for name in ("deeppose-r50", "pfld", "mobilenetv2-gdconv"))
    assert (deeppose.config.colour, deeppose.config.origin) == (ColourOrder.RGB, PointOrigin.INPUT_PIXEL)
    assert deeppose.preprocess.size == (256, 256)
    assert pfld.preprocess == SquareCrop(size=(112, 112), padding=1.2, side=BoxSide.LONGER)
    assert gdconv.preprocess == SquareCrop(size=(224, 224), padding=1.2, side=BoxSide.SHORTER)
    frame = torch.randint(0, 256, (1, 4, 5, 3), dtype=torch.uint8)
    planes = frame.permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = (planes - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(pfld.normalise(frame), planes)
    torch.testing.assert_close(gdconv.normalise(frame), wanted)  # RGB's constants, on BGR
    torch.testing.assert_close(
        deeppose.normalise(frame), (planes.flip(1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    )


def test_training_here_teaches_continuous_coordinates() -> None:
    for name in ("deeppose-r50", "pfld"):
        config = registry.find(name).as_trained().config
        assert (config.origin, config.flip_shift) == (PointOrigin.CORNER, False)


def published_state(name: str) -> dict[str, torch.Tensor]:
    """0.01 everywhere, one number a tensor in the file."""
    return {
        key: torch.full((1,), 0 if key.endswith("num_batches_tracked") else 0.01)
        .expand(shape or (1,))
        .reshape(shape)
        for key, shape in published_table(name).items()
    }


@pytest.mark.slow
def test_published_files_are_imported_as_they_are_wrapped(tmp_path: Path) -> None:
    """With what they hold besides; both names that mmpose gave its head."""
    deeppose = published_state("deeppose-r50")
    newer = {key.replace("keypoint_head.", "head."): value for key, value in deeppose.items()}
    auxiliary = AuxiliaryNetwork().state_dict()
    gdconv = {f"module.{key}": value for key, value in published_state("mobilenetv2-gdconv").items()}
    for name, content, dropped in (
        ("deeppose-r50", {"meta": {"epoch": 210}, "state_dict": deeppose}, ""),
        ("deeppose-r50", {"meta": {"epoch": 210}, "state_dict": newer}, ""),
        (
            "pfld",
            {"epoch": 5, "pfld_backbone": published_state("pfld"), "auxiliarynet": auxiliary},
            "bn8.weight",
        ),
        ("mobilenetv2-gdconv", {"state_dict": gdconv}, "pretrain_net.classifier.1.bias"),
    ):
        entry = registry.find(name)
        torch.save(content, tmp_path / "published.pth")
        module, report = import_checkpoint(tmp_path / "published.pth", entry)
        assert report.vocabulary is not None
        assert report.vocabulary.size == entry.vocabulary_size
        values = [value for value in module.state_dict().values() if value.is_floating_point()]
        assert all(bool((value == 0.01).all()) for value in values)
        assert not dropped or dropped in report.dropped


@pytest.mark.slow
def test_a_published_file_without_a_tensor_is_refused(tmp_path: Path) -> None:
    state = published_state("pfld")
    del state["conv8.bias"]
    torch.save({"pfld_backbone": state}, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"missing +whole\.bias"):
        import_checkpoint(tmp_path / "broken.pth", registry.find("pfld"))


def test_the_manifest_says_how_points_are_read() -> None:
    manifest = registry.find("deeppose-r50").manifest(WFLW_FACE, PROVENANCE)
    assert manifest.postprocess == RegressedKeypoints(origin=PointOrigin.INPUT_PIXEL, flip_shift=True)
    (output,) = manifest.graphs["main"].outputs
    assert output.shape == (1, 98, 2)


def test_a_size_that_the_network_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        msgspec.structs.replace(MICRO, input_size=(40, 48))
    with pytest.raises(ValueError, match="multiples of 32"):
        RegressionConfig(input_size=(240, 240))


def test_points_begin_in_the_middle() -> None:
    torch.manual_seed(1)
    for network in (
        PfldNetwork(channels=8, depths=(2, 2), scales=(4, 6, 8)),
        MobileNetNetwork(width=0.1, last_channels=16),
    ):
        module = build(RegressionConfig(network=network, input_size=(64, 64))).eval()
        with torch.inference_mode():
            found = module(torch.rand(2, 3, 64, 64)).numpy()
        np.testing.assert_allclose(found, 0.5, atol=0.2)


@pytest.mark.parametrize(
    ("name", "metric", "lowest", "highest"),
    [("deeppose-tiny", "pck", 0.95, 1.0), ("pfld-tiny", "nme_inter_ocular", 0.0, 0.05)],
)
def test_the_shipped_files_are_small_and_say_how_they_came_about(
    name: str, metric: str, lowest: float, highest: float
) -> None:
    path = Path(edgewise.models.__file__).parent / "pretrained" / f"{name}.safetensors"
    assert path.stat().st_size <= 1_000_000
    meta, _ = load_checkpoint(path)
    assert meta.training_command.startswith(f"edgewise train {name} --seed 1")
    assert lowest < meta.metrics[metric] < highest
    entry = registry.find(name)
    assert meta.entry().config == entry.config
    assert meta.vocabulary.size == entry.vocabulary_size
