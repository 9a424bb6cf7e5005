"""Deformable convolution against its definition written as loops, and against plain convolution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgewise.models.layers.deform_conv import (
    DeformConv,
    ModulatedDeformConv,
    deform_conv,
    deform_conv_op,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def padded_sample(plane: np.ndarray, y: float, x: float) -> float:
    """Bilinear, every pixel outside the plane being 0."""
    total, top, left = 0.0, int(np.floor(y)), int(np.floor(x))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def loop_deform_conv(x, weight, offset, bias, mask, stride, padding, dilation):
    images, channels = x.shape[:2]
    outputs, _, kernel_height, kernel_width = weight.shape
    result = np.zeros((images, outputs, *offset.shape[2:]))
    for n, i, j in np.ndindex(images, *offset.shape[2:]):
        for k, (a, b) in enumerate(np.ndindex(kernel_height, kernel_width)):
            y = i * stride - padding + a * dilation + offset[n, 2 * k, i, j]
            x_ = j * stride - padding + b * dilation + offset[n, 2 * k + 1, i, j]
            factor = 1.0 if mask is None else mask[n, k, i, j]
            for c in range(channels):
                result[n, :, i, j] += weight[:, c, a, b] * factor * padded_sample(x[n, c], y, x_)
    return result if bias is None else result + bias[:, None, None]


def random_case(seed, size, kernel, stride, padding, dilation, modulated=True, images=2):
    rng = np.random.default_rng(seed)
    out = [(side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in size]
    return {
        "x": rng.normal(size=(images, 2, *size)),
        "weight": rng.normal(size=(3, 2, kernel, kernel)),
        "offset": rng.normal(0, 2, (images, 2 * kernel**2, *out)),
        "bias": rng.normal(size=3),
        "mask": rng.uniform(size=(images, kernel**2, *out)) if modulated else None,
    }


def tensors(case):
    return {name: None if value is None else torch.from_numpy(value) for name, value in case.items()}


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from([1, 3]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
)
def test_deform_conv_is_its_definition(seed, size, kernel, stride, dilation, modulated):
    padding = dilation * (kernel // 2)
    case = random_case(seed, size, kernel, stride, padding, dilation, modulated)
    got = deform_conv(**tensors(case), stride=stride, padding=padding, dilation=dilation)
    expected = loop_deform_conv(**case, stride=stride, padding=padding, dilation=dilation)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_without_offsets_it_is_a_convolution(stride, dilation):
    torch.manual_seed(0)
    layer = DeformConv(4, 6, stride=stride, padding=dilation, dilation=dilation)
    x = torch.randn(2, 4, 9, 11)
    torch.testing.assert_close(layer(x), layer.conv(x), atol=1e-5, rtol=1e-5)


def test_whole_offsets_shift_the_picture():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3, 10, 12), torch.randn(5, 3, 3, 3)
    offset = torch.tensor([2.0, -1.0]).repeat(9).reshape(1, 18, 1, 1).expand(-1, -1, 10, 12)
    around = F.pad(x, (3, 3, 3, 3))
    # Window rows start at -1 + 2 and columns at -1 - 1 of the picture, which begins at 3 here.
    expected = F.conv2d(around[:, :, 4:16, 1:15], weight)
    torch.testing.assert_close(deform_conv(x, weight, offset), expected, atol=1e-4, rtol=1e-4)


def test_modulation_scales_taps_and_starts_at_one_half():
    torch.manual_seed(0)
    layer = ModulatedDeformConv(3, 4)
    x = torch.randn(1, 3, 6, 7)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1) / 2, atol=1e-5, rtol=1e-5)
    layer.conv_offset_mask.bias.data[18 + 4] = 30.0
    layer.conv_offset_mask.bias.data[18:][torch.arange(9) != 4] = -30.0
    centre = F.conv2d(x, layer.weight[:, :, 1:2, 1:2])
    torch.testing.assert_close(layer(x), centre, atol=1e-5, rtol=1e-5)


def test_gradients_reach_input_weights_offsets_and_mask():
    case = tensors(random_case(7, (4, 5), 3, 1, 1, 1, images=1))
    # Away from whole positions, where the bilinear surface has its creases.
    case["offset"] = case["offset"].round() + 0.4
    names = list(case)

    def convolved(*values):
        return deform_conv(**dict(zip(names, values, strict=True)))

    torch.autograd.gradcheck(convolved, tuple(value.requires_grad_() for value in case.values()))


@pytest.mark.parametrize("kind", [DeformConv, ModulatedDeformConv])
def test_an_export_holds_one_operator_with_the_numbers_of_training(kind):
    torch.manual_seed(0)
    layer = kind(4, 6, stride=2)
    for value in layer.parameters():
        torch.nn.init.normal_(value, std=0.3)
    x = torch.randn(1, 4, 9, 11)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x).detach())
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names.count("edgewise.deform_conv.default") == 1
    assert not any("grid_sampler" in name for name in names)


def test_the_operator_keeps_the_contract_of_custom_operators():
    case = tensors(random_case(3, (5, 6), 3, 2, 1, 1, images=1))
    torch.library.opcheck(
        deform_conv_op, (*case.values(), 2, 1, 1), test_utils=("test_schema", "test_faketensor")
    )


def test_keys_are_those_of_the_published_blocks():
    assert list(DeformConv(2, 3).state_dict()) == [
        "conv_offset.weight",
        "conv_offset.bias",
        "conv.weight",
        "conv.bias",
    ]
    assert DeformConv(2, 3).conv_offset.weight.shape == (18, 2, 3, 3)
    modulated = ModulatedDeformConv(2, 3)
    assert list(modulated.state_dict()) == [
        "weight",
        "bias",
        "conv_offset_mask.weight",
        "conv_offset_mask.bias",
    ]
    assert modulated.conv_offset_mask.weight.shape == (27, 2, 3, 3)
    assert not modulated.conv_offset_mask.weight.any()
