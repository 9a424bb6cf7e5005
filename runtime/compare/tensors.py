"""How far two tensors are apart, and what makes a tensor unfit to be compared: one rule for every room.

Floats are compared by the largest and mean absolute error, the largest error relative to the reference's
largest magnitude, and the cosine of the flattened tensors; integers (class numbers, maps of segments) by the
share of equal elements. A reference that is zero everywhere allows no error: relative to it, any is infinite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from edgewise.runtime.contract.manifest import TensorSpec
from edgewise.runtime.engines.base import Tensor, describe, numpy_dtype

NEAR = 0.1
"""Vectors are near each other where the length of their difference is less than this part of the shorter."""


@dataclass(frozen=True)
class TensorDifference:
    """How far one tensor is from its reference.

    `relative` is max|a - b| / max|b|: 0 where both are all zero, infinite where only the reference is, or
    where shapes or infinities differ. `cosine` lies in -1..1: 1 where both are all zero, 0 where only one is
    or nothing can be compared. `equal` is the share of equal elements of integers, None for floats.
    """

    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    equal: float | None = None


_INCOMPARABLE = TensorDifference(max_abs=inf, mean_abs=inf, relative=inf, cosine=0.0, equal=None)


def difference(candidate: Tensor, reference: Tensor) -> TensorDifference:
    """Compare two tensors of any numeric dtype. Equal infinities are equal, NaN differs from everything."""
    if candidate.shape != reference.shape:
        return _INCOMPARABLE
    a, b = _numbers(candidate), _numbers(reference)
    finite = np.isfinite(b)
    if not (np.array_equal(finite, np.isfinite(a)) and np.array_equal(a[~finite], b[~finite])):
        return _INCOMPARABLE
    if not finite.all():
        a, b = a[finite], b[finite]
    if a.size == 0:
        return TensorDifference(max_abs=0.0, mean_abs=0.0, relative=0.0, cosine=1.0)
    with np.errstate(over="ignore"):  # an infinite error fails its check
        error = a - b
    np.abs(error, out=error)
    max_abs, largest = float(error.max()), max(float(b.max()), -float(b.min()))
    relative = max_abs / largest if largest > 0 else (0.0 if max_abs == 0 else inf)
    return TensorDifference(
        max_abs=max_abs,
        mean_abs=float(error.mean(dtype=np.float64)),
        relative=relative,
        cosine=_cosine(a, b, _norm(error)),
        equal=equal_share(candidate, reference) if _both_whole(candidate, reference) else None,
    )


def equal_share(first: Tensor, second: Tensor) -> float:
    """Share of elements in which two arrays of the same shape are equal; 1 where they have none."""
    return float((first == second).mean()) if first.size else 1.0


def _both_whole(candidate: Tensor, reference: Tensor) -> bool:
    return all(not np.issubdtype(each.dtype, np.floating) for each in (candidate, reference))


def _numbers(tensor: Tensor) -> Tensor:
    """Flat, as float32 where that holds every value exactly, else as float64."""
    exact = tensor.dtype.itemsize <= 2 or tensor.dtype == np.float32
    return tensor.astype(np.float32 if exact else np.float64, copy=False).ravel()


def _norm(values: Tensor) -> float:
    with np.errstate(over="ignore"):
        square = float(np.dot(values, values))
    if np.isinf(square):  # a fill value near the largest float32
        square = float(np.dot(values.astype(np.float64), values.astype(np.float64)))
    return float(np.sqrt(square))


def _cosine(first: Tensor, second: Tensor, error: float) -> float:
    """Cosine of two vectors and |first - second|.

    Where they are near each other it follows from the lengths alone, which keeps the digits that the quotient
    of dot products loses; elsewhere that would cancel, and the quotient is exact.
    """
    a, b = _norm(first), _norm(second)
    if a == 0.0 or b == 0.0:
        return 1.0 if a == b else 0.0
    if error < NEAR * min(a, b):
        cosine = 1.0 - (error**2 - (a - b) ** 2) / (2.0 * a * b)
    else:
        cosine = float(np.dot(first.astype(np.float64) / a, second.astype(np.float64) / b))
    return float(np.clip(cosine, -1.0, 1.0))


def structure_problems(specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Say where `tensors` are not exactly `specs` by name, shape and dtype."""
    problems = [f"missing: {describe(spec)}" for spec in specs if spec.name not in tensors]
    declared = {spec.name for spec in specs}
    problems += [f"undeclared: {name}" for name in tensors if name not in declared]
    for spec in specs:
        tensor = tensors.get(spec.name)
        if tensor is None:
            continue
        wanted = numpy_dtype(spec.dtype)
        if tensor.dtype != wanted:
            problems.append(f"{spec.name} is {tensor.dtype}, declared {wanted}")
        if tensor.shape != spec.shape:
            problems.append(f"{spec.name} has shape {list(tensor.shape)}, declared {list(spec.shape)}")
    return tuple(problems)


def value_problems(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Name the tensors that hold NaN, with how many. An infinity may be meant: a mask, a logarithm of 0."""
    problems: list[str] = []
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.floating):
            continue
        bad = int(np.isnan(tensor).sum())
        if bad:
            problems.append(f"{name} holds {bad} values that are NaN")
    return tuple(problems)


@dataclass
class TensorTally:
    """The worst of one tensor over all looks at all frames; constant memory."""

    looks: int = 0
    max_abs: float = 0.0
    relative: float = 0.0
    cosine: float = 1.0
    equal: float | None = None
    worst_frame: int | None = None
    """Number of the frame with the largest relative error, or the smallest equal share."""
    _mean_abs_sum: float = field(default=0.0, repr=False)

    @property
    def mean_abs(self) -> float:
        return self._mean_abs_sum / self.looks if self.looks else 0.0

    def add(self, frame: int, found: TensorDifference) -> None:
        worse = found.relative > self.relative
        if found.equal is not None:
            worse = self.equal is None or found.equal < self.equal
            self.equal = found.equal if self.equal is None else min(self.equal, found.equal)
        if self.looks == 0 or worse:
            self.worst_frame = frame
        self.looks += 1
        self.max_abs = max(self.max_abs, found.max_abs)
        self.relative = max(self.relative, found.relative)
        self.cosine = min(self.cosine, found.cosine)
        self._mean_abs_sum += found.mean_abs
