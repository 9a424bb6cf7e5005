"""A small network with everything that codes meet, images to calibrate on, and sessions to run both forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgewise.calibration.collect import calibrate
from edgewise.calibration.samples import CalibrationSet
from edgewise.calibration.table import CalibrationTable
from edgewise.runtime.contract.manifest import CalibrationMethod
from edgewise.runtime.contract.preprocessing import Stretch

SIDE = 48


class NetBuilder:
    """Writes nodes with seeded weights."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def constant(self, name: str, values: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def conv(
        self, tensor: str, output: str, channels: tuple[int, int], kernel: int = 1, stride: int = 1
    ) -> str:
        into, out = channels
        weight = self._rng.normal(0, (2 / (into * kernel**2)) ** 0.5, (out, into, kernel, kernel))
        # Channels of very different size, as batch normalisation leaves them.
        weight *= np.exp(self._rng.normal(0, 0.5, (out, 1, 1, 1)))
        names = [
            self.constant(f"{output}.weight", weight.astype(np.float32)),
            self.constant(f"{output}.bias", self._rng.normal(0, 0.1, out).astype(np.float32)),
        ]
        return self.add(
            "Conv",
            [tensor, *names],
            output,
            kernel_shape=[kernel] * 2,
            pads=[kernel // 2] * 4,
            strides=[stride] * 2,
        )

    def relu(self, tensor: str, output: str) -> str:
        return self.add("Relu", [tensor], output)

    def model(self, outputs: Mapping[str, tuple[int, ...]], opset: int = 17) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIDE, SIDE, 3])
        infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "residual", [image], infos, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def build_residual(seed: int = 0) -> onnx.ModelProto:
    """Stem, MaxPool, projected and identity residual blocks, a pyramid step, Concat, ConvTranspose, heads."""
    net = NetBuilder(seed)
    net.add("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
    net.add("Mul", ["pixels", net.constant("scale", np.float32(1 / 64))], "scaled")
    net.add("Sub", ["scaled", net.constant("mean", np.float32(2))], "centred")
    net.add("Transpose", ["centred"], "planes", perm=[0, 3, 1, 2])
    net.relu(net.conv("planes", "stem", (3, 16), 3, 2), "stem_relu")
    net.add("MaxPool", ["stem_relu"], "pooled", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    net.relu(net.conv("pooled", "a1", (16, 16)), "a1_relu")
    net.relu(net.conv("a1_relu", "a2", (16, 16), 3), "a2_relu")
    net.conv("a2_relu", "a3", (16, 32))
    net.conv("pooled", "a_projection", (16, 32))
    net.relu(net.add("Add", ["a3", "a_projection"], "a_sum"), "a_out")
    net.relu(net.conv("a_out", "b1", (32, 16), 3), "b1_relu")
    net.conv("b1_relu", "b2", (16, 32), 3)
    net.relu(net.add("Add", ["b2", "a_out"], "b_sum"), "b_out")
    net.relu(net.conv("b_out", "c1", (32, 32), 3, 2), "c_out")
    net.conv("c_out", "top", (32, 32))
    sizes = net.constant("sizes", np.array([1, 32, 12, 12], np.int64))
    net.add("Resize", ["top", "", "", sizes], "top_up", mode="linear")
    net.conv("b_out", "lateral", (32, 32))
    net.add("Add", ["lateral", "top_up"], "merged")
    net.relu(net.conv("merged", "smooth", (32, 32), 3), "smooth_relu")
    net.relu(net.conv("b_out", "side", (32, 16)), "side_relu")
    net.add("Concat", ["smooth_relu", "side_relu"], "joined", axis=1)
    net.relu(net.conv("joined", "mix", (48, 32)), "mix_relu")
    kernel = np.random.default_rng(seed + 1).normal(0, 0.1, (32, 16, 2, 2)).astype(np.float32)
    net.constant("up.weight", kernel)
    net.add("ConvTranspose", ["mix_relu", "up.weight"], "up", kernel_shape=[2, 2], strides=[2, 2])
    net.relu("up", "up_relu")
    net.add("Sigmoid", [net.conv("up_relu", "mask_logits", (16, 16))], "mask")
    net.conv("mix_relu", "boxes", (32, 4), 3)
    net.conv("mix_relu", "classes", (32, 24), 3)
    return net.model({"mask": (1, 16, 24, 24), "boxes": (1, 4, 12, 12), "classes": (1, 24, 12, 12)})


def smooth_image(seed: int, side: int = 64) -> np.ndarray:
    """uint8 [side, side, 3]: blurred colour patches with a little texture."""
    rng = np.random.default_rng(seed)
    patches = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (side, side))
    return cv2.add(patches, rng.integers(0, 16, (side, side, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def net() -> type[NetBuilder]:
    return NetBuilder


@pytest.fixture(scope="session")
def residual() -> onnx.ModelProto:
    """The network; read only."""
    return build_residual()


@pytest.fixture(scope="session")
def picture() -> Callable[[int], np.ndarray]:
    return smooth_image


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve images, four of them in a subfolder; read only."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    for number in range(12):
        place = folder / "more" if number >= 8 else folder
        cv2.imwrite(str(place / f"{number:02d}.png"), smooth_image(number))
    return folder


@pytest.fixture(scope="session")
def spec() -> Stretch:
    return Stretch(size=(SIDE, SIDE))


@pytest.fixture(scope="session")
def table(residual: onnx.ModelProto, images: Path, spec: Stretch) -> CalibrationTable:
    samples = CalibrationSet.from_folder(images, count=6)
    return calibrate(residual, samples, spec, method=CalibrationMethod.MSE)


@pytest.fixture(scope="session")
def frames(spec: Stretch) -> list[np.ndarray]:
    """Network inputs that were not calibrated on, one of them brighter than anything seen."""
    inputs = [cv2.resize(smooth_image(seed), spec.size[::-1])[None] for seed in (101, 102, 103)]
    return [*inputs, np.full_like(inputs[0], 255)]


Run = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def run() -> Run:
    """run(model, image, fused=True) -> outputs; without `fused`, codes are emulated in float."""

    def run_model(model: onnx.ModelProto, image: np.ndarray, *, fused: bool = True) -> dict[str, np.ndarray]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        if not fused:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"image": image}), strict=True))

    return run_model
