"""Running maxima along an axis (the corner pooling of Law and Deng, 2018) in a logarithmic number of steps.

After the step of width s each value is the maximum of the 2 s values that begin at it; where fewer are left,
of all of them. Seven steps do for 128 values, and none is looked at one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def max_from(x: Tensor, axis: int) -> Tensor:
    """At each place the maximum of it and all behind it along an axis."""
    width, length = 1, x.shape[axis]
    while width < length:
        ahead = x.narrow(axis, width, length - width)
        here = x.narrow(axis, 0, length - width)
        rest = x.narrow(axis, length - width, width)
        x = torch.cat((torch.maximum(here, ahead), rest), dim=axis)
        width *= 2
    return x


def max_until(x: Tensor, axis: int) -> Tensor:
    """At each place the maximum of it and all before it along an axis."""
    width, length = 1, x.shape[axis]
    while width < length:
        before = x.narrow(axis, 0, length - width)
        here = x.narrow(axis, width, length - width)
        first = x.narrow(axis, 0, width)
        x = torch.cat((first, torch.maximum(here, before)), dim=axis)
        width *= 2
    return x
