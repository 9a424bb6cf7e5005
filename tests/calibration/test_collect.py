from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.calibration.collect import calibrate, observe
from edgewise.calibration.graph import float_activations, index_graph, load_model, with_node_names
from edgewise.calibration.observers import choose_amax
from edgewise.calibration.placement import PlacementRules, candidate_tensors, place
from edgewise.calibration.samples import CalibrationSet, preprocess_sha256
from edgewise.calibration.table import decode_table, encode_table
from edgewise.runtime.contract.manifest import CalibrationMethod
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.system.errors import CalibrationError


def exposed(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    """Every float activation of one image, computed with all optimisations off."""
    index = index_graph(with_node_names(model))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    names = list(float_activations(index))
    copy.graph.output.extend(index.types[name] for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def test_every_activation_has_its_extremes(residual: onnx.ModelProto, images: Path, spec: Stretch) -> None:
    samples = CalibrationSet.from_folder(images, count=3)
    table = calibrate(residual, samples, spec, method=CalibrationMethod.MINMAX, threads=1)
    seen = [exposed(residual, tensor) for _, tensor in samples.tensors(spec)]
    assert set(table.tensors) == set(seen[0])
    for name, found in table.tensors.items():
        low, high = min(s[name].min() for s in seen), max(s[name].max() for s in seen)
        assert found.minimum == pytest.approx(low, rel=1e-4, abs=1e-4)
        assert found.maximum == pytest.approx(high, rel=1e-4, abs=1e-4)
        assert found.amax == found.largest_magnitude
        assert found.method is CalibrationMethod.MINMAX


@pytest.mark.parametrize("method", [CalibrationMethod.ENTROPY, CalibrationMethod.PERCENTILE])
def test_candidates_follow_the_method(
    residual: onnx.ModelProto, images: Path, spec: Stretch, method: CalibrationMethod
) -> None:
    samples = CalibrationSet.from_folder(images, count=3, seed=8)
    table = calibrate(residual, samples, spec, method=method, percentile=99.0)
    candidates = set(candidate_tensors(residual))
    assert {name for name, found in table.tensors.items() if found.method is method} == candidates
    assert (table.method, table.sample_count, table.seed) == (method, 3, 8)
    assert table.samples_sha256 == samples.samples_sha256
    assert table.preprocess_sha256 == preprocess_sha256(spec)
    assert table.percentile == (99.0 if method is CalibrationMethod.PERCENTILE else None)
    seen = [exposed(residual, tensor) for _, tensor in samples.tensors(spec)]
    for name in ("a_out", "merged", "pooled"):
        magnitudes = np.abs(np.concatenate([s[name].reshape(-1) for s in seen]))
        amax = table.tensors[name].amax
        assert amax <= magnitudes.max() * (1 + 1e-6)
        if method is CalibrationMethod.PERCENTILE:
            assert amax == pytest.approx(np.percentile(magnitudes, 99.0), rel=0.02)


def test_histograms_equal_those_of_the_tensors(
    residual: onnx.ModelProto, images: Path, spec: Stretch
) -> None:
    tensors = list(CalibrationSet.from_folder(images, count=2).tensors(Stretch(size=spec.size)))
    feeds = [(name, {"image": tensor.copy()}) for name, tensor in tensors]
    seen = observe(residual, feeds, histograms=["b_out", "lateral"])
    assert set(seen.histograms) == {"b_out", "lateral"}
    assert seen.histograms["lateral"].counts.sum() == 2 * 32 * 12 * 12
    assert seen.histograms["b_out"].minimum == 0.0
    assert choose_amax(seen.histograms["b_out"], CalibrationMethod.MINMAX) == seen.histograms["b_out"].maximum


def test_progress_counts_samples(residual: onnx.ModelProto, images: Path, spec: Stretch) -> None:
    calls: list[tuple[int, int]] = []
    samples = CalibrationSet.from_folder(images, count=3)
    calibrate(
        residual,
        samples,
        spec,
        method=CalibrationMethod.MINMAX,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def curve_of_pixels(operator: str) -> onnx.ModelProto:
    """Pixels -> operator -> product with weights -> Relu, and beside it an attention's mask of -inf."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 32, 32, 3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 32, 32, 16])
    mask = np.triu(np.full((16, 16), -np.inf, np.float32), 1)
    mask[0, 0] = np.inf
    weights = {"weight": np.ones((3, 16), np.float32), "one": np.float32(1), "mask": mask[:1]}
    nodes = [
        helper.make_node("Cast", ["image"], ["integers"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["integers", "one"], ["pixels"]),
        helper.make_node(operator, ["pixels"], ["curve"]),
        helper.make_node("MatMul", ["curve", "weight"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("MatMul", ["pixels", "weight"], ["plain"]),
        helper.make_node("Add", ["plain", "mask"], ["masked"]),
        helper.make_node("Max", ["positive", "masked"], ["out"]),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "curve", [image], [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


METHODS = [CalibrationMethod.ENTROPY, CalibrationMethod.MINMAX]


@pytest.mark.parametrize("method", METHODS)
def test_infinities_are_kept_out_of_codes_and_stop_nothing(tmp_path: Path, method: CalibrationMethod) -> None:
    """Reciprocal of a dark pixel is infinite, and so is what a mask of -inf is added to."""
    model = curve_of_pixels("Reciprocal")
    picture = np.full((32, 32, 3), 51, np.uint8)
    picture[:, :4] = 1
    cv2.imwrite(str(tmp_path / "dark.png"), picture)
    samples = CalibrationSet.from_folder(tmp_path, count=1)
    table = calibrate(model, samples, Stretch(size=(32, 32)), method=method)
    assert table.unbounded == {"curve", "product", "positive", "masked", "out"}
    assert decode_table(encode_table(table)) == table
    rules = PlacementRules(keep_first=False, least_channels=0)
    assert place(model, rules=rules).weighted == ("MatMul_product", "MatMul_plain")
    placed = place(model, rules=rules, unbounded=table.unbounded)
    assert placed.weighted == ("MatMul_plain",)
    assert [(node.node, "reads infinities" in node.reason) for node in placed.kept] == [
        ("MatMul_product", True)
    ]
    assert not table.unbounded.intersection(placed.tensors)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("operator", ["Log", "Sqrt"])
def test_nan_names_tensor_and_sample(tmp_path: Path, method: CalibrationMethod, operator: str) -> None:
    """Log and Sqrt of pixels less 1 are NaN where an image is black."""
    model = curve_of_pixels(operator)
    ramp = np.broadcast_to(np.arange(1, 33, dtype=np.uint8)[None, :, None] * 7, (32, 32, 3)).copy()
    cv2.imwrite(str(tmp_path / "good.png"), ramp)
    samples = CalibrationSet.from_folder(tmp_path, count=1)
    calibrate(model, samples, Stretch(size=(32, 32)), method=method)
    ramp[:, :4] = 0
    cv2.imwrite(str(tmp_path / "bad.png"), ramp)
    samples = CalibrationSet.from_folder(tmp_path, count=2)
    with pytest.raises(CalibrationError, match="an activation is NaN") as caught:
        calibrate(model, samples, Stretch(size=(32, 32)), method=method)
    assert caught.value.where == "tensor curve, sample bad.png"


def test_nan_alone_is_found_by_the_reductions(residual: onnx.ModelProto) -> None:
    """ONNX Runtime's ReduceMin and ReduceMax pass over NaN; the sum of magnitudes does not."""
    model = onnx.ModelProto()
    model.CopyFrom(residual)
    broken = np.full((), np.nan, np.float32)
    mean = next(tensor for tensor in model.graph.initializer if tensor.name == "mean")
    mean.CopyFrom(numpy_helper.from_array(broken, "mean"))
    with pytest.raises(CalibrationError, match="is NaN"):
        observe(model, [("x", {"image": np.zeros((1, 48, 48, 3), np.uint8)})], histograms=[])


def test_no_sample(residual: onnx.ModelProto) -> None:
    with pytest.raises(CalibrationError, match="no calibration sample"):
        observe(residual, [], histograms=[])


def test_shapes_must_be_fixed(residual: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(residual)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    feed = ("x", {"image": np.zeros((1, 48, 48, 3), np.uint8)})
    with pytest.raises(CalibrationError, match="shape is not fixed"):
        observe(model, [feed], histograms=["a_out"])


def test_a_file_that_is_no_model(tmp_path: Path, images: Path, spec: Stretch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing")
    samples = CalibrationSet.from_folder(images, count=1)
    with pytest.raises(CalibrationError, match="not a readable ONNX model"):
        calibrate(path, samples, spec)
    with pytest.raises(CalibrationError, match="not a readable ONNX model") as caught:
        load_model(path.read_bytes(), where="model.onnx of a bundle")
    assert caught.value.where == "model.onnx of a bundle"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples(
    residual: onnx.ModelProto, images: Path, tmp_path: Path
) -> None:
    """Peak resident memory of a fresh process, 4 samples beside 96."""
    onnx.save(residual, str(tmp_path / "model.onnx"))
    program = """
import resource, sys
import numpy as np, onnx
from edgewise.calibration.collect import observe
from edgewise.calibration.placement import PlacementRules, candidate_tensors, place
model = onnx.load(sys.argv[1])
rng = np.random.default_rng(0)
count = int(sys.argv[2])
feeds = ((str(i), {"image": rng.integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)}) for i in range(count))
observe(model, feeds, histograms=candidate_tensors(model), threads=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

    def peak(count: int) -> int:
        command = [sys.executable, "-c", program, str(tmp_path / "model.onnx"), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    few, many = peak(4), peak(96)
    assert many < 1.05 * few


@pytest.mark.slow
def test_memory_is_that_of_a_few_tensors_where_only_extremes_are_wanted(net: type, tmp_path: Path) -> None:
    """Twenty-four tensors of 16 MiB: each is reduced as soon as it is there, and freed."""
    size, layers = 512, 12
    builder = net(0)
    builder.add("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
    builder.add("Reshape", ["pixels", builder.constant("planar", np.array([1, 16, size, size]))], "x0")
    for layer in range(layers):
        builder.relu(builder.conv(f"x{layer}", f"c{layer}", (16, 16), 1), f"x{layer + 1}")
    model = builder.model({f"x{layers}": (1, 16, size, size)})
    model.graph.input[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_type_proto(TensorProto.UINT8, [1, size, size, 16]).tensor_type.shape
    )
    del model.graph.value_info[:]
    onnx.save(onnx.shape_inference.infer_shapes(model), str(tmp_path / "model.onnx"))
    program = """
import resource, sys
import numpy as np, onnx
from edgewise.calibration.collect import observe
model = onnx.load(sys.argv[1])
shape = tuple(size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim)
feeds = [(str(i), {"image": np.full(shape, i, np.uint8)}) for i in range(2)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
observe(model, feeds, histograms=(), threads=1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "model.onnx")]
    mebibytes = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert mebibytes < 8 * 16
