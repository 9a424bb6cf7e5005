from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgewise.runtime.compare.tensors import TensorTally, difference, structure_problems, value_problems
from edgewise.runtime.contract.manifest import DType, TensorSpec

SPECS = (
    TensorSpec(name="boxes", dtype=DType.FLOAT32, shape=(1, 2, 4)),
    TensorSpec(name="classes", dtype=DType.INT32, shape=(1, 2)),
)


def fitting() -> dict[str, np.ndarray]:
    return {"boxes": np.zeros((1, 2, 4), np.float32), "classes": np.zeros((1, 2), np.int32)}


def test_fitting_tensors_have_no_problem() -> None:
    assert structure_problems(SPECS, fitting()) == ()
    assert value_problems(fitting()) == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tensors: tensors.pop("boxes"), "missing: boxes float32 [1, 2, 4]"),
        (lambda tensors: tensors.update(extra=np.zeros(1)), "undeclared: extra"),
        (
            lambda tensors: tensors.update(boxes=np.zeros((1, 2, 4), np.float64)),
            "boxes is float64, declared float32",
        ),
        (
            lambda tensors: tensors.update(classes=np.zeros((2,), np.int32)),
            "classes has shape [2], declared [1, 2]",
        ),
    ],
)
def test_structure_is_exact(change, expected: str) -> None:
    tensors = fitting()
    change(tensors)
    assert structure_problems(SPECS, tensors) == (expected,)


def test_nan_is_named_and_infinity_is_a_value() -> None:
    tensors = fitting()
    tensors["boxes"][0, 0, 0] = np.inf
    assert value_problems(tensors) == ()
    tensors["boxes"][0, 1, 2] = np.nan
    assert value_problems(tensors) == ("boxes holds 1 values that are NaN",)


FINITE = st.floats(-1e4, 1e4, width=32)


@given(
    arrays.arrays(np.float32, 24, elements=FINITE),
    arrays.arrays(np.float32, 24, elements=st.floats(-1, 1, width=32)),
)
def test_difference_is_what_its_formulas_say(reference: np.ndarray, change: np.ndarray) -> None:
    candidate = reference + change
    found = difference(candidate, reference)
    a, b = candidate.astype(np.float64), reference.astype(np.float64)
    assert found.max_abs == pytest.approx(np.abs(a - b).max(), rel=1e-3, abs=1e-6)
    assert found.mean_abs == pytest.approx(np.abs(a - b).mean(), rel=1e-3, abs=1e-6)
    if np.abs(b).max() > 1e-6:
        assert found.relative == pytest.approx(np.abs(a - b).max() / np.abs(b).max(), rel=1e-3, abs=1e-6)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    if lengths > 1e-6:
        assert found.cosine == pytest.approx(a @ b / lengths, abs=1e-4)


def test_difference_of_equal_tensors_is_none() -> None:
    tensor = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    found = difference(tensor.astype(np.float16).astype(np.float32), tensor.astype(np.float16))
    assert (found.max_abs, found.mean_abs, found.relative, found.cosine) == (0.0, 0.0, 0.0, 1.0)


def test_zero_references() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert difference(zero, zero).relative == 0.0
    assert difference(zero, zero).cosine == 1.0
    assert difference(one, zero).relative == float("inf")
    assert difference(one, zero).cosine == 0.0
    assert difference(zero, one).relative == 1.0
    assert difference(zero, one).cosine == 0.0


def test_integers_are_compared_exactly() -> None:
    large = np.array([2**24, 2**24 + 1], np.int32)
    assert difference(large, large[::-1].copy()).max_abs == 1.0


def test_fill_values_near_the_largest_float_do_not_overflow() -> None:
    filled = np.array([-3e38, 1.0], np.float32)
    found = difference(filled, filled)
    assert (found.relative, found.cosine) == (0.0, 1.0)
    assert difference(filled, np.array([3e38, 1.0], np.float32)).cosine == -1.0


def test_shapes_must_agree() -> None:
    found = difference(np.ones((1, 3)), np.ones((3, 1)))
    assert (found.max_abs, found.mean_abs, found.relative, found.cosine) == (np.inf, np.inf, np.inf, 0.0)


def test_the_tally_keeps_the_worst_and_its_image() -> None:
    reference = np.array([1.0, 2.0], np.float32)
    tally = TensorTally()
    for image, error in ((11, 0.1), (12, 0.4), (13, 0.2)):
        tally.add(image, difference(reference + np.float32(error), reference))
    assert tally.looks == 3
    assert tally.worst_frame == 12
    assert tally.max_abs == pytest.approx(0.4)
    assert tally.relative == pytest.approx(0.2)
    assert tally.mean_abs == pytest.approx((0.1 + 0.4 + 0.2) / 3)
    assert tally.cosine == pytest.approx(difference(reference + np.float32(0.4), reference).cosine)


def test_the_cosine_of_vectors_of_very_different_lengths() -> None:
    reference = np.full(24, 1e-5, np.float32)
    assert difference(reference + np.float32(0.875), reference).cosine == pytest.approx(1, abs=1e-6)
    assert difference(-1e5 * reference, reference).cosine == pytest.approx(-1, abs=1e-6)


def test_integers_are_compared_by_their_equal_share() -> None:
    reference = np.array([[3, 3, 3, 9]], np.int32)
    found = difference(np.array([[3, 3, 4, 0]], np.int32), reference)
    assert found.equal == 0.5
    assert difference(reference.astype(np.float32), reference.astype(np.float32)).equal is None
    tally = TensorTally()
    tally.add(4, difference(reference, reference))
    tally.add(5, found)
    tally.add(6, difference(reference, reference))
    assert (tally.equal, tally.worst_frame) == (0.5, 5)
