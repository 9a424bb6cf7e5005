"""INT8 on ONNX Runtime's CPU kernels: FP32, edgewise's forms and `quantize_static` U8, in turns in one run.

    python benchmarks/int8_cpu.py [--threads N] [--repeats N] [--graph FILE]

YOLACT R50 at 550x550 with all its decoding, seeded weights. Figures are medians of wall time; `processor` is
the median of the processor time of all threads, which other programs on the machine disturb less. `noise` is
the worst ratio of error to signal of a head's raw output against FP32, in dB (lower is better).

`lossless` is the U8 form of TensorRT's graph; `edgewise` the form that bundles hold, with codes on the
branches of additions too. ONNX Runtime's product of unsigned by signed bytes saturates on processors without
VNNI; its remedy there is `reduce_range`, weights of seven bits.

The last line but two is what ONNX Runtime's kernels allow on this processor: one 3x3 convolution of 256 to
256 channels at 69x69, alone, as QLinearConv beside Conv. No graph of convolutions gains more than that.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from published_graph import SIDE, picture, write_graph, write_images

from edgewise.runtime.system.processor import available_cores, has_int8_dot_products, processor_flags

CALIBRATION_IMAGES = 4


@dataclass
class Contestant:
    name: str
    session: Any
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def run(self, image: np.ndarray) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        self.session.run(None, {"image": image})
        self.wall.append(time.perf_counter() - wall)
        self.processor.append(time.process_time() - processor)


def edgewise_forms(graph: Path, images: Path) -> dict[str, bytes]:
    import onnx

    from edgewise.calibration.collect import calibrate
    from edgewise.calibration.lower_u8 import lower_u8
    from edgewise.calibration.placement import place
    from edgewise.calibration.qdq import quantise_s8
    from edgewise.calibration.samples import CalibrationSet
    from edgewise.runtime.contract.manifest import CalibrationMethod, Target
    from edgewise.runtime.contract.preprocessing import Stretch

    samples = CalibrationSet.from_folder(images, count=CALIBRATION_IMAGES)
    table = calibrate(graph, samples, Stretch(size=(SIDE, SIDE)), method=CalibrationMethod.MINMAX)
    model = onnx.load(str(graph))
    forms = {"edgewise": Target.ONNXRUNTIME, "lossless": Target.TENSORRT}
    return {
        name: lower_u8(quantise_s8(model, table, place(model, target=target))).SerializeToString()
        for name, target in forms.items()
    }


def quantize_static_form(graph: Path, images: Path, folder: Path, *, seven_bits: bool = False) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    from edgewise.runtime.frames.images import read_image

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._inputs = iter([{"image": read_image(file)[None]} for file in sorted(images.iterdir())])

        def get_next(self) -> Any:  # None at the end, which the base's annotation leaves out
            return next(self._inputs, None)

    logging.getLogger().setLevel(logging.ERROR)
    path = folder / "quantize_static.onnx"
    quantize_static(
        str(graph),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=seven_bits,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return path.read_bytes()


def session(model: bytes, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def noise(models: dict[str, bytes], image: np.ndarray) -> Iterator[tuple[str, float]]:
    """The largest error to signal ratio of each model's raw heads against those of `fp32`, in dB."""
    heads = ("loc", "conf", "coefficients", "prototypes")
    exact = probes(models["fp32"], heads, image)
    for name, model in models.items():
        found = probes(model, heads, image)
        worst = max(float(np.mean((found[h] - exact[h]) ** 2) / np.mean(exact[h] ** 2)) for h in heads)
        yield name, 10 * float(np.log10(worst)) if worst > 0 else float("-inf")


def probes(model: bytes, names: tuple[str, ...], image: np.ndarray) -> dict[str, np.ndarray]:
    import onnx

    exposed = onnx.load_model_from_string(model)
    known = {output.name for output in exposed.graph.output}
    made = {tensor for node in exposed.graph.node for tensor in node.output}
    for name in names:
        if name not in made:
            raise SystemExit(f"the graph makes no tensor {name!r}")
        if name not in known:
            exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    return dict(
        zip(names, session(exposed.SerializeToString(), 0).run(list(names), {"image": image}), strict=True)
    )


def kernel_ratio(threads: int, repeats: int) -> float:
    """Time of one float convolution over that of the same convolution on bytes."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (256, 256, 3, 3)).astype(np.int8)
    scalars = {"s": np.float32(0.01), "z": np.uint8(0), "ws": np.full(256, 0.01, np.float32)}
    scalars |= {"wz": np.zeros(256, np.int8), "out": np.float32(10)}

    def one_node(operator: str, inputs: list[str], kind: int, tensors: dict[str, Any]) -> Any:
        node = helper.make_node(operator, inputs, ["y"], pads=[1] * 4)
        x = helper.make_tensor_value_info("x", kind, [1, 256, 69, 69])
        y = helper.make_tensor_value_info("y", kind, None)
        stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()]
        model = helper.make_model(
            helper.make_graph([node], "one", [x], [y], stored),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=9,
        )
        return session(model.SerializeToString(), threads)

    operands = ["x", "s", "z", "w", "ws", "wz", "out", "z"]
    image = rng.integers(0, 128, (1, 256, 69, 69))
    images = (image.astype(np.float32), image.astype(np.uint8))
    runners = [
        one_node("Conv", ["x", "w"], TensorProto.FLOAT, {"w": codes.astype(np.float32)}),
        one_node("QLinearConv", operands, TensorProto.UINT8, {"w": codes, **scalars}),
    ]
    times: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for runner, given, collected in zip(runners, images, times, strict=True):
            start = time.perf_counter()
            runner.run(None, {"x": given})
            collected.append(time.perf_counter() - start)
    return statistics.median(times[0][1:]) / statistics.median(times[1][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--graph", type=Path, help="an FP32 graph of this model, exported before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        graph = arguments.graph or write_graph(place / "graph.onnx")
        images = write_images(place / "images", CALIBRATION_IMAGES)
        models = {"fp32": graph.read_bytes(), **edgewise_forms(graph, images)}
        models["quantize_static"] = quantize_static_form(graph, images, place)
        models["quantize_static, 7 bits"] = quantize_static_form(graph, images, place, seven_bits=True)
    image = picture(100)[None]
    contestants = [Contestant(name, session(model, arguments.threads)) for name, model in models.items()]
    for contestant in contestants:
        contestant.session.run(None, {"image": image})
    for _ in range(arguments.repeats):
        for contestant in contestants:
            contestant.run(image)

    flags = sorted(flag for flag in processor_flags() if "avx" in flag or "amx" in flag or "asimd" in flag)
    print(
        f"{arguments.threads} threads; flags: {' '.join(flags)}; INT8 dot products: {has_int8_dot_products()}"
    )
    noises = dict(noise(models, image))
    reference = contestants[0]
    for contestant in contestants:
        wall, processor = statistics.median(contestant.wall), statistics.median(contestant.processor)
        ratios = (
            statistics.median(reference.wall) / wall,
            statistics.median(reference.processor) / processor,
        )
        print(
            f"{contestant.name:26s} {1e3 * wall:8.1f} ms  x{ratios[0]:.2f}   "
            f"processor {1e3 * processor:8.1f} ms  x{ratios[1]:.2f}   noise {noises[contestant.name]:6.1f} dB"
        )
    by_name = {c.name: c for c in contestants}
    ours, theirs = by_name["edgewise"], by_name["quantize_static"]
    ceiling = kernel_ratio(arguments.threads, arguments.repeats)
    print(f"one convolution on bytes against floats: x{ceiling:.2f}")
    print(f"edgewise against fp32: x{_ratio(reference, ours):.2f}   target >= 2.8")
    print(f"edgewise against quantize_static: x{_ratio(theirs, ours):.2f}   target >= 1")


def _ratio(slow: Contestant, fast: Contestant) -> float:
    return statistics.median(slow.wall) / statistics.median(fast.wall)


if __name__ == "__main__":
    main()
