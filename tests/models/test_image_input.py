"""Scaling in training and its folding into the stem: one rule, told apart by rounding alone."""

import pytest
import torch
from torch import nn

from edgewise.models.layers.image_input import ImageInput
from edgewise.runtime.contract.preprocessing import ColourOrder

MEAN = {1.0: (123.68, 116.78, 103.94), 255.0: (0.4404, 0.4440, 0.4327)}
STD = {1.0: (58.40, 57.12, 57.38), 255.0: (0.229, 0.224, 0.225)}
PLAIN = ImageInput(ColourOrder.BGR)


def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 9, 12, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("colour", ColourOrder)
@pytest.mark.parametrize("scale", MEAN)
@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_a_folded_stem_gives_what_it_gave_for_normalised_images(colour, scale, with_mean, with_std):
    mean = MEAN[scale] if with_mean else PLAIN.mean
    image_input = ImageInput(colour, scale, mean, STD[scale] if with_std else PLAIN.std)
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 4, 3, 2, 1)
    with torch.no_grad():
        wanted = stem(image_input.normalise(frames()))
        before = image_input.fold_into(stem)
        found = stem(before(frames()))
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert stem.weight.requires_grad


@pytest.mark.parametrize(("colour", "red"), [(ColourOrder.RGB, 0), (ColourOrder.BGR, 2)])
def test_every_channel_has_its_own_mean_and_scale(colour, red):
    frame = torch.tensor([10, 20, 30], dtype=torch.uint8).expand(1, 4, 5, 3)
    image_input = ImageInput(colour, 2.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    wanted = [0.0, (20 / 2 - 2) / 5, 0.0]
    wanted[red] = (30 / 2 - image_input.mean[red]) / image_input.std[red]
    wanted[2 - red] = (10 / 2 - image_input.mean[2 - red]) / image_input.std[2 - red]
    torch.testing.assert_close(image_input.normalise(frame)[0, :, 3, 4], torch.tensor(wanted))
