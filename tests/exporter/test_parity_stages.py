"""A lowered file in parity: the engine that ships, and the session that shows its inner tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.exporter.parity.stages import LOOK_AGAIN, SURE_RUNS, ProbedRunner
from edgewise.runtime.contract.manifest import DType, TensorSpec
from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.system.errors import ParityError

IMAGE = TensorSpec(name="image", dtype=DType.FLOAT32, shape=(1, 4))
RESULT = TensorSpec(name="result", dtype=DType.FLOAT32, shape=(1, 4))
INNER = TensorSpec(name="inner", dtype=DType.FLOAT32, shape=(1, 4))
RUNS = 20
AHEAD = np.array([[0.5, 1.0, 1.5, 2.0]], np.float32)


def file(operator: str) -> bytes:
    """inner = 3 image; result = operator(inner)."""
    value = [
        helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape)
        for spec in (IMAGE, RESULT, INNER)
    ]
    nodes = [
        helper.make_node("Mul", ["image", "three"], ["inner"]),
        helper.make_node(operator, ["inner"], ["result"]),
    ]
    three = numpy_helper.from_array(np.float32(3), "three")
    graph = helper.make_graph(nodes, "file", value[:1], value[1:2], [three], value_info=value[2:])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


class CountedEngine(OnnxRuntimeEngine):
    """Notes which of its owner's runs it takes part in."""

    ran: list[int]
    turn: int

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.ran.append(self.turn)
        return super().run(inputs)


def engine(operator: str) -> CountedEngine:
    made = CountedEngine(file(operator), inputs=[IMAGE], outputs=[RESULT], where=operator)
    made.ran, made.turn = [], 0
    return made


def probed(shipped: CountedEngine, exposed: str) -> ProbedRunner:
    """The shipped engine, beside a session of a file that may give something else."""
    return ProbedRunner(shipped, file(exposed), [RESULT], [INNER], where="file", threads=1)


def run(runner: ProbedRunner, shipped: CountedEngine, images: list[Tensor]) -> list[dict[str, Tensor]]:
    found = []
    for turn, image in enumerate(images):
        shipped.turn = turn
        found.append(runner.run({"image": image}))
    return found


def test_equal_bits_save_a_session() -> None:
    """The first runs and every eighth are made by both; every run gives outputs and probes."""
    shipped = engine("Relu")
    found = run(probed(shipped, "Relu"), shipped, [AHEAD * (1 + turn) for turn in range(RUNS)])
    assert shipped.ran == [0, 1, 8, 16]
    assert (SURE_RUNS, LOOK_AGAIN) == (2, 8)
    for turn, outputs in enumerate(found):
        assert set(outputs) == {"result", "inner"}
        np.testing.assert_array_equal(outputs["result"], 3 * AHEAD * (1 + turn))
        np.testing.assert_array_equal(outputs["inner"], 3 * AHEAD * (1 + turn))


def test_other_bits_keep_both_sessions() -> None:
    """The outputs are those of the file that ships, the probes those of the other session."""
    shipped = engine("Neg")
    found = run(probed(shipped, "Relu"), shipped, [AHEAD] * RUNS)
    assert shipped.ran == list(range(RUNS))
    for outputs in found:
        np.testing.assert_array_equal(outputs["result"], -3 * AHEAD)
        np.testing.assert_array_equal(outputs["inner"], 3 * AHEAD)


def test_bits_that_part_later_bring_the_second_session_back() -> None:
    """Relu and Abs give the same until an image is negative; the next look at both sees it."""
    shipped = engine("Abs")
    images = [AHEAD] * 5 + [-AHEAD] * (RUNS - 5)
    found = run(probed(shipped, "Relu"), shipped, images)
    assert shipped.ran == [0, 1, *range(8, RUNS)]
    for outputs in found[8:]:
        np.testing.assert_array_equal(outputs["result"], 3 * AHEAD)


def test_nan_on_both_sides_is_the_same() -> None:
    """It is for the stage to refuse."""
    shipped = engine("Relu")
    broken = AHEAD.copy()
    broken[0, 1] = np.nan
    found = run(probed(shipped, "Relu"), shipped, [broken] * 4)
    assert shipped.ran == [0, 1]
    assert all(np.isnan(outputs["inner"][0, 1]) for outputs in found)


def test_a_file_without_the_probe_is_refused() -> None:
    absent = TensorSpec(name="absent", dtype=DType.FLOAT32, shape=(1, 4))
    with pytest.raises(ParityError, match="no float tensor named 'absent'"):
        ProbedRunner(engine("Relu"), file("Relu"), [RESULT], [absent], where="file", threads=1)
