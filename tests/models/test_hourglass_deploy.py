"""Stacked Hourglass as it is deployed, beside the training definition."""

import msgspec
import numpy as np
import pytest
import torch

from edgewise.models import registry
from edgewise.models.data.labels import MPII_PEOPLE
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.hourglass.config import TINY, princeton
from edgewise.models.families.hourglass.network import Residual
from edgewise.models.scenes.vocabulary import KEYPOINTS
from edgewise.runtime.contract.manifest import ClassLabel, Provenance
from edgewise.runtime.contract.postprocessing import HeatmapDecoding, HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop, CropCorners
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.pixels.geometry import Geometry
from edgewise.runtime.system.errors import ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

PERSON = Vocabulary((ClassLabel(id=1, name="person"),), KEYPOINTS)
PROVENANCE = Provenance(definition="registry:hourglass-tiny")


def micro(**changes):
    return registry.find("hourglass-tiny").with_config(
        **{"input_size": (64, 32), "depth": 2, "channels": 8, **changes}
    )


def seeded(entry):
    torch.manual_seed(3)
    module = entry.build()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
    for stack in module.stacks:
        torch.nn.init.normal_(stack.heatmaps.weight, std=0.3)
    return module.eval()


def random_frames(count, config):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *config.input_size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "changes",
    [{"stacks": 1}, {"stacks": 3, "blocks": 2}, {"unused_projections": True, "mean": (0.0, 0.0, 0.0)}],
)
def test_deployed_heatmaps_are_the_last_stacks(changes):
    entry = micro(**changes)
    module = seeded(entry)
    frames = random_frames(3, entry.config)
    with torch.no_grad():
        every = module(entry.normalise(frames))
        (heatmaps,) = entry.deploy(module)(frames)
    assert len(every) == entry.config.stacks
    scale = every[-1].abs().max()
    assert scale > 0.1
    assert float((heatmaps - every[-1]).abs().max() / scale) < 1e-5


def test_normalising_subtracts_the_mean_of_rgb():
    entry = micro()
    frames = torch.zeros(1, 64, 32, 3, dtype=torch.uint8)
    frames[..., 2] = 255
    images = entry.normalise(frames)
    red, green, blue = TINY.mean
    assert torch.allclose(images[0, :, 5, 5], torch.tensor([1.0 - red, -green, -blue]))


def test_black_around_a_crop_is_minus_the_mean():
    """The published crop is padded with 0 before the mean is subtracted."""
    entry = micro()
    assert isinstance(entry.preprocess, AffineCrop)
    frame = np.full((40, 40, 3), 200, np.uint8)
    crop, geometry = preprocess(entry.preprocess, frame, box=(-30.0, 5.0, -5.0, 35.0))
    assert isinstance(geometry, Geometry)
    corner = entry.normalise(torch.from_numpy(crop))[0, :, 0, 0]
    assert torch.allclose(corner, -torch.tensor(TINY.mean))


def test_deploying_drops_unused_projections_and_leaves_the_module_alone():
    config = msgspec.structs.replace(princeton(2), input_size=(64, 64), channels=8)
    entry = registry.find("hourglass-2-princeton").from_config(msgspec.to_builtins(config))
    module = seeded(entry)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    deployed = entry.deploy(module)
    blocks = [part for part in deployed.modules() if isinstance(part, Residual)]
    assert [block.projection is not None for block in blocks] == [block.projects for block in blocks]
    assert sum(block.projects for block in blocks) == 2
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "vocabulary", "shape", "corners", "decoding"),
    [
        (
            "hourglass-8",
            MPII_PEOPLE,
            (1, 16, 64, 64),
            CropCorners.WHOLE_PIXELS_FROM_ONE,
            HeatmapDecoding.QUARTER_PIXEL,
        ),
        (
            "hourglass-2-princeton",
            MPII_PEOPLE,
            (1, 16, 64, 64),
            CropCorners.WHOLE_PIXELS,
            HeatmapDecoding.QUARTER_ALWAYS,
        ),
        ("hourglass-tiny", PERSON, (1, 17, 32, 24), CropCorners.EXACT, HeatmapDecoding.QUARTER_PIXEL),
    ],
)
def test_the_manifest_says_what_the_graph_gives(name, vocabulary, shape, corners, decoding):
    entry = registry.find(name)
    manifest = entry.manifest(vocabulary, PROVENANCE)
    graph = manifest.graphs["main"]
    assert [output.name for output in graph.outputs] == ["heatmaps"]
    assert graph.outputs[0].shape == shape
    assert graph.probes == ()
    assert manifest.task is entry.task == "keypoints"
    assert manifest.keypoints == vocabulary.keypoints
    assert manifest.preprocess == AffineCrop(size=entry.config.input_size, corners=corners)
    assert manifest.postprocess == HeatmapKeypoints(decoding=decoding)
    with torch.device("meta"):
        deployed = entry.deploy(entry.build().eval())
        frame = torch.zeros(graph.inputs[0].shape, dtype=torch.uint8)
        (heatmaps,) = deployed(frame)
    assert tuple(heatmaps.shape) == shape


def test_another_number_of_keypoints_is_refused():
    with pytest.raises(ModelError, match="16 keypoints for the 1 things, 17 keypoints"):
        registry.find("hourglass-tiny").manifest(MPII_PEOPLE, PROVENANCE)
