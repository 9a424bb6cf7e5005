"""Real engines, built by TensorRT-RTX on the CPU, from a small detector in three precisions."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgewise.exporter.bundle.model_files import name_model_files
from edgewise.exporter.bundle.writer import update_bundle, write_bundle
from edgewise.exporter.cli import app
from edgewise.exporter.engines.build import BuildOptions, EngineRecord, build_engine, with_realised
from edgewise.exporter.passes.free_batch import free_batch
from edgewise.runtime.contract import manifest as contract
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import DType, KeptNode, Precision, PrecisionRecord, Target, TensorSpec
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.engines.cache import EngineCache
from edgewise.runtime.engines.cuda import Gpu, find_gpu
from edgewise.runtime.engines.opening import open_engine
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.errors import BackendError, BuildError, EdgewiseError, MissingExtraError

pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")

SIZE, SLOTS = 48, 10
SPECS = {
    "boxes": TensorSpec(name="boxes", dtype=DType.FLOAT32, shape=(1, SLOTS, 4)),
    "scores": TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, SLOTS)),
    "classes": TensorSpec(name="classes", dtype=DType.INT32, shape=(1, SLOTS)),
}
IMAGE = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, SIZE, SIZE, 3))
CONVOLUTIONS = ("stem", "body", "head")


def detector(precision: Precision, *, wide: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Cast, three convolutions with a residual and a resize, then boxes of the ten best cells.

    Args:
        wide: Convolutions that stay float32.
    """
    generator = np.random.default_rng(7)
    tensors: dict[str, np.ndarray] = {
        "mean": np.float32(127.5),
        "double": np.array([1, 1, 2, 2], np.float32),
        "flat": np.array([1, 4, -1], np.int64),
        "k": np.array([SLOTS], np.int64),
        "last": np.array([2], np.int64),
        "boxes_shape": np.array([1, SLOTS, 4], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], name="transpose", perm=(0, 3, 1, 2)),
        helper.make_node("Div", ["planes", "mean"], ["scaled"], name="scale"),
    ]

    def convolve(name: str, source: str, into: int, out: int, size: int) -> str:
        weight = generator.normal(size=(out, into, size, size)).astype(np.float32) / np.float32(into * size)
        bias = generator.normal(size=out).astype(np.float32)
        narrow = precision if name not in wide else Precision.FP32
        made = f"{name}_out"
        operands = [source, f"{name}_w"]
        if narrow is Precision.INT8:
            scale = np.abs(weight).reshape(out, -1).max(axis=1) / np.float32(127)
            tensors[f"{name}_q"] = np.round(weight / scale[:, None, None, None]).astype(np.int8)
            tensors[f"{name}_ws"], tensors[f"{name}_wz"] = scale, np.zeros(out, np.int8)
            tensors[f"{name}_s"], tensors[f"{name}_z"] = np.float32(0.05), np.int8(0)
            nodes.extend(
                [
                    helper.make_node(
                        "QuantizeLinear", [source, f"{name}_s", f"{name}_z"], [f"{name}_x8"], name=f"{name}_Q"
                    ),
                    helper.make_node(
                        "DequantizeLinear",
                        [f"{name}_x8", f"{name}_s", f"{name}_z"],
                        [f"{name}_x"],
                        name=f"{name}_DQ",
                    ),
                    helper.make_node(
                        "DequantizeLinear",
                        [f"{name}_q", f"{name}_ws", f"{name}_wz"],
                        [f"{name}_w"],
                        name=f"{name}_weight_DQ",
                        axis=0,
                    ),
                ]
            )
            operands[0] = f"{name}_x"
        elif narrow is Precision.FP16:
            nodes.append(
                helper.make_node(
                    "Cast", [source], [f"{name}_x"], name=f"{name}_to_half", to=TensorProto.FLOAT16
                )
            )
            operands[0], made = f"{name}_x", f"{name}_half"
            weight, bias = weight.astype(np.float16), bias.astype(np.float16)
        if narrow is not Precision.INT8:
            tensors[f"{name}_w"] = weight
        tensors[f"{name}_b"] = bias
        nodes.append(
            helper.make_node(
                "Conv", [*operands, f"{name}_b"], [made], name=name, pads=[size // 2] * 4, strides=[1, 1]
            )
        )
        if narrow is Precision.FP16:
            nodes.append(
                helper.make_node(
                    "Cast", [made], [f"{name}_out"], name=f"{name}_to_float", to=TensorProto.FLOAT
                )
            )
        return f"{name}_out"

    nodes.append(helper.make_node("Relu", [convolve("stem", "scaled", 3, 16, 3)], ["r1"], name="relu1"))
    nodes.append(helper.make_node("Add", [convolve("body", "r1", 16, 16, 3), "r1"], ["sum"], name="add"))
    nodes.append(helper.make_node("Relu", ["sum"], ["r2"], name="relu2"))
    nodes.append(
        helper.make_node(
            "Resize", ["r2", "", "double"], ["large"], name="resize", mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
    )  # fmt: skip
    head = convolve("head", "large", 16, 4, 1)
    nodes += [
        helper.make_node("Reshape", [head, "flat"], ["cells"], name="reshape"),
        helper.make_node("ReduceMax", ["cells"], ["best"], name="best", axes=[1], keepdims=0),
        helper.make_node("TopK", ["best", "k"], ["scores", "places"], name="topk", axis=1),
        helper.make_node("Cast", ["places"], ["classes"], name="to_int32", to=TensorProto.INT32),
        helper.make_node("Unsqueeze", ["places", "last"], ["column"], name="unsqueeze"),
        helper.make_node("Expand", ["column", "boxes_shape"], ["spread"], name="expand"),
        helper.make_node("Transpose", ["cells"], ["rows"], name="rows", perm=(0, 2, 1)),
        helper.make_node("GatherElements", ["rows", "spread"], ["boxes"], name="gather", axis=1),
    ]
    kinds = {DType.FLOAT32: TensorProto.FLOAT, DType.INT32: TensorProto.INT32}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, IMAGE.shape)],
        [helper.make_tensor_value_info(s.name, kinds[s.dtype], s.shape) for s in SPECS.values()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def make_bundle(
    folder: Path,
    models: Mapping[Precision, onnx.ModelProto] | None = None,
    kept: Mapping[Precision, tuple[KeptNode, ...]] | None = None,
    batch: int = 1,
) -> Bundle:
    models = models or {precision: detector(precision) for precision in Precision}
    lowered = {
        (target, precision): {"": model.SerializeToString(deterministic=True)}
        for precision, model in models.items()
        for target in Target
    }
    named = name_model_files("main", lowered)
    graph = contract.Graph(inputs=(IMAGE,), outputs=tuple(SPECS.values()), files=named.entries, batch=batch)
    manifest = contract.Manifest(
        writer="a test",
        name="detector",
        provenance=contract.Provenance(definition="hand-made"),
        graphs={"main": graph},
        preprocess=Stretch(size=(SIZE, SIZE)),
        keypoints=contract.KeypointLayout(names=("corner",)),
        postprocess=HeatmapKeypoints(heatmaps="boxes"),  # no test decodes: only names and types count
        precisions=tuple(
            PrecisionRecord(precision=precision, asked="hand-made", kept=(kept or {}).get(precision, ()))
            for precision in models
        ),
    )
    return write_bundle(folder, manifest, named.files)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("build") / "detector.bundle")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(bundle: Bundle, precision: Precision, **options: object) -> EngineRecord:
    options.setdefault("compute_capabilities", ("sm86",))
    return build_engine(bundle, Target.TENSORRT_RTX, precision, BuildOptions(**options))  # type: ignore[arg-type]


# ---------------------------------------------------------------- engines


@pytest.mark.parametrize("capabilities", [("sm86",), ("sm89", "sm86")])
@pytest.mark.parametrize("precision", list(Precision))
def test_engines_build_in_every_precision_without_a_gpu(
    bundle: Bundle, precision: Precision, capabilities: tuple[str, ...]
) -> None:
    record = build(bundle, precision, compute_capabilities=capabilities)
    data = EngineCache.of_user().read(record)
    assert hashlib.sha256(data).hexdigest() == record.sha256
    assert record.key.compute_capabilities == tuple(sorted(capabilities))
    assert record.realised.layers[precision.value] >= len(CONVOLUTIONS)
    assert record.realised.device == ", ".join(sorted(capabilities))


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same detector, of four looks a launch."""
    sample = {"image": np.random.default_rng(2).integers(0, 256, IMAGE.shape, dtype=np.uint8)}
    models = {precision: free_batch(detector(precision), [sample]) for precision in Precision}
    return make_bundle(tmp_path_factory.mktemp("batch") / "detector.bundle", models, batch=4)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_free_batch_and_any_fixed_one_build(batched: Bundle, precision: Precision) -> None:
    records = {batch: build(batched, precision, batch=batch) for batch in (None, 1, 3, 4)}
    looks = {batch: record.key.shapes["image"][0] for batch, record in records.items()}
    assert looks == {None: 4, 1: 1, 3: 3, 4: 4}
    assert len({record.key.digest() for record in records.values()}) == 4
    for record in records.values():
        assert record.key.shapes["image"][1:] == IMAGE.shape[1:]
        assert record.realised.layers[precision.value] >= len(CONVOLUTIONS)
    again = build(batched, precision, batch=3)
    assert again == records[3]


def test_more_looks_than_the_bundle_takes_are_refused(bundle: Bundle, batched: Bundle) -> None:
    for refusing, most in ((bundle, 1), (batched, 4)):
        with pytest.raises(BuildError, match=f"{most + 1} looks in one launch .* takes {most}") as caught:
            build(refusing, Precision.FP16, batch=most + 1)
        assert f"export the bundle with --batch {most + 1}" in caught.value.hint
    with pytest.raises(BuildError, match="a batch of 0 looks"):
        build(batched, Precision.FP16, batch=0)


def test_the_verb_says_that_int8_is_only_a_check_on_tensorrt_rtx(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "detector.bundle")
    for precision, said in ((Precision.INT8, True), (Precision.FP16, False)):
        arguments = ["build", str(bundle.path), "--target", "tensorrt-rtx", "--precision", precision.value]
        result = CliRunner().invoke(app, [*arguments, "--compute-capability", "sm86"])
        assert result.exit_code == 0, result.output
        assert ("is a check of graph and numbers" in result.output) is said


def test_int8_engine_is_smaller_and_has_no_float_convolution(bundle: Bundle) -> None:
    sizes = {precision: build(bundle, precision) for precision in Precision}
    assert sizes[Precision.FP32].realised.layers.get("int8", 0) == 0
    assert sizes[Precision.FP32].realised.layers.get("fp16", 0) == 0
    assert sizes[Precision.INT8].realised.layers["int8"] >= 3


def test_kept_nodes_may_stay_wider(tmp_path: Path) -> None:
    models = {precision: detector(precision, wide=("head",)) for precision in Precision}
    reason = KeptNode(node="head", precision=Precision.FP32, reason="its scores are near each other")
    kept = {Precision.FP16: (reason,), Precision.INT8: (reason,)}
    bundle = make_bundle(tmp_path / "kept.bundle", models, kept)
    assert build(bundle, Precision.FP16).realised.layers["fp16"] >= 2
    assert build(bundle, Precision.INT8).realised.layers["int8"] >= 2


# ---------------------------------------------------------------- the promise of a precision


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_fp32_graph_under_another_name_is_not_accepted(
    tmp_path: Path, own_cache: Path, precision: Precision
) -> None:
    bundle = make_bundle(tmp_path / "false.bundle", {precision: detector(Precision.FP32)})
    with pytest.raises(BuildError, match="was asked for and not built") as caught:
        build(bundle, precision)
    assert "3 of 3" in caught.value.what
    assert not list(own_cache.rglob("*.engine"))


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_one_wide_convolution_that_the_manifest_does_not_name_is_found(
    tmp_path: Path, precision: Precision
) -> None:
    bundle = make_bundle(tmp_path / "hole.bundle", {precision: detector(precision, wide=("body",))})
    with pytest.raises(BuildError, match=r"body .*1 of 3"):
        build(bundle, precision)


def test_narrow_convolutions_in_an_fp32_file_are_found(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "narrow.bundle", {Precision.FP32: detector(Precision.FP16)})
    with pytest.raises(BuildError, match="computes in fp16"):
        build(bundle, Precision.FP32)


def test_a_kept_node_that_is_narrower_than_promised_is_found(tmp_path: Path) -> None:
    kept = {Precision.FP16: (KeptNode(node="stem", precision=Precision.FP32, reason="large activations"),)}
    bundle = make_bundle(tmp_path / "narrower.bundle", {Precision.FP16: detector(Precision.FP16)}, kept)
    with pytest.raises(BuildError, match="stem was kept in fp32 and computes in fp16"):
        build(bundle, Precision.FP16)


# ---------------------------------------------------------------- cache


def test_second_build_is_found_and_force_builds_again(bundle: Bundle) -> None:
    first = build(bundle, Precision.FP16)
    messages: list[str] = []
    assert build(bundle, Precision.FP16, progress=messages.append) == first
    assert messages == ["found in the cache"]
    again = build(bundle, Precision.FP16, force=True)
    assert again.key == first.key
    assert again.built_at > first.built_at
    assert len(list(EngineCache.of_user().records())) == 1


def test_other_options_and_targets_make_other_engines(bundle: Bundle) -> None:
    digests = {
        build(bundle, Precision.FP16).key.digest(),
        build(bundle, Precision.FP16, compute_capabilities=("sm89",)).key.digest(),
        build(bundle, Precision.FP16, workspace_mib=256).key.digest(),
        build(bundle, Precision.FP32).key.digest(),
    }
    assert len(digests) == 4


def test_output_folder_holds_the_engine_and_its_record(bundle: Bundle, tmp_path: Path) -> None:
    record = build(bundle, Precision.INT8, output=tmp_path / "engines")
    names = sorted(path.name for path in (tmp_path / "engines").iterdir())
    assert names == sorted([f"{record.sha256}.engine", f"{record.key.digest()}.json"])
    assert not list(EngineCache.of_user().records())


def test_realised_precision_can_join_the_manifest(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "noted.bundle", {Precision.INT8: detector(Precision.INT8)})
    record = build(bundle, Precision.INT8)
    noted = with_realised(with_realised(bundle, record), record)
    assert noted.manifest.precisions[0].realised == (record.realised,)
    noted.verify()


# ---------------------------------------------------------------- refusals


def test_plugins_are_registered_before_parsing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real TensorRT-RTX with its registry's door watched; 10 and later parse RoiAlign only behind it."""
    calls: list[str] = []
    real = import_tensorrt(Target.TENSORRT_RTX, verb="build")
    watched = ModuleType("watched_tensorrt")
    watched.__dict__.update(vars(real))

    def initialise(logger: object, namespace: str) -> bool:
        calls.append(f"plugins of {namespace!r}")
        return bool(real.init_libnvinfer_plugins(logger, namespace))

    def parser(network: object, logger: object) -> object:
        calls.append("parser")
        return real.OnnxParser(network, logger)

    monkeypatch.setattr(watched, "init_libnvinfer_plugins", initialise, raising=False)
    monkeypatch.setattr(watched, "OnnxParser", parser)
    monkeypatch.setattr("edgewise.exporter.engines.build.import_tensorrt", lambda target, verb: watched)
    build(bundle, Precision.FP32, force=True)
    assert calls == ["plugins of ''", "parser"]


def test_unsupported_operator_is_named(tmp_path: Path) -> None:
    model = detector(Precision.FP32)
    node = next(node for node in model.graph.node if node.name == "relu2")
    node.op_type = "BitwiseNot"
    bundle = make_bundle(tmp_path / "odd.bundle", {Precision.FP32: model})
    with pytest.raises(BuildError, match="BitwiseNot relu2"):
        build(bundle, Precision.FP32)


def test_node_that_parses_but_does_not_build_is_reported(tmp_path: Path) -> None:
    model = detector(Precision.FP32)
    k = next(tensor for tensor in model.graph.initializer if tensor.name == "k")
    k.CopyFrom(numpy_helper.from_array(np.array([3841], np.int64), "k"))
    shape = next(tensor for tensor in model.graph.initializer if tensor.name == "boxes_shape")
    shape.CopyFrom(numpy_helper.from_array(np.array([1, 3841, 4], np.int64), "boxes_shape"))
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = 3841
    bundle = make_bundle(tmp_path / "wide.bundle", {Precision.FP32: model})
    graph = msgspec.structs.replace(
        bundle.graph("main"),
        outputs=tuple(
            msgspec.structs.replace(spec, shape=(1, 3841, *spec.shape[2:])) for spec in SPECS.values()
        ),
    )
    bundle = update_bundle(bundle, msgspec.structs.replace(bundle.manifest, graphs={"main": graph}), {})
    with pytest.raises(BuildError, match="3840"):
        build(bundle, Precision.FP32)


def test_broken_model_file_is_reported(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "whole.bundle", {Precision.FP32: detector(Precision.FP32)})
    graph = bundle.graph("main")
    files = tuple(msgspec.structs.replace(file, path="models/broken.onnx") for file in graph.files)
    manifest = msgspec.structs.replace(
        bundle.manifest, graphs={"main": msgspec.structs.replace(graph, files=files)}
    )
    broken = update_bundle(bundle, manifest, {"models/broken.onnx": b"not a model"})
    with pytest.raises(BuildError, match="refuses the model"):
        build(broken, Precision.FP32)


def test_changed_model_byte_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "changed.bundle", {Precision.FP32: detector(Precision.FP32)})
    path = bundle.file(bundle.graph_entry("main", Target.TENSORRT_RTX, Precision.FP32).path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EdgewiseError, match="another SHA-256"):
        build(bundle, Precision.FP32)


def test_model_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "renamed.bundle", {Precision.FP32: detector(Precision.FP32)})
    graph = bundle.graph("main")
    shorter = msgspec.structs.replace(
        graph, outputs=tuple(msgspec.structs.replace(s, shape=(1, 9, *s.shape[2:])) for s in graph.outputs)
    )
    manifest = msgspec.structs.replace(bundle.manifest, graphs={"main": shorter})
    with pytest.raises(BackendError, match="in the manifest"):
        build(update_bundle(bundle, manifest, {}), Precision.FP32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capabilities": ("sm87",)}, "does not build for sm87"),
        ({"compute_capabilities": ("8.6",)}, "no compute capability"),
        ({"workspace_mib": 0}, "workspace"),
        ({"optimisation_level": 6}, "optimisation level"),
    ],
)
def test_impossible_options_are_refused(bundle: Bundle, options: dict[str, object], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build(bundle, Precision.FP32, **options)


def test_onnxruntime_has_nothing_to_build(bundle: Bundle) -> None:
    with pytest.raises(BuildError, match="nothing to build"):
        build_engine(bundle, Target.ONNXRUNTIME, Precision.FP32)


def test_tensorrt_takes_no_compute_capability(bundle: Bundle) -> None:
    options = BuildOptions(compute_capabilities=("sm86",))
    with pytest.raises(BuildError, match="GPU of this machine only"):
        build_engine(bundle, Target.TENSORRT, Precision.FP32, options)


def test_missing_tensorrt_names_the_extra(bundle: Bundle) -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    with pytest.raises(MissingExtraError, match=r"\[tensorrt\]"):
        build_engine(bundle, Target.TENSORRT, Precision.FP32)


def test_without_gpu_the_target_must_be_named(bundle: Bundle) -> None:
    try:
        find_gpu()
    except BackendError:
        pass
    else:
        pytest.skip("there is a GPU here")
    with pytest.raises(BuildError, match="no GPU here") as caught:
        build_engine(bundle, Target.TENSORRT_RTX, Precision.FP32)
    assert "--compute-capability" in caught.value.hint


def test_ctrl_c_ends_the_build_and_stores_nothing(bundle: Bundle, own_cache: Path) -> None:
    phases: list[str] = []

    def press(phase: str) -> None:
        phases.append(phase)
        if len(phases) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(bundle, Precision.FP32, progress=press)
    assert not own_cache.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_error_in_the_progress_callback_comes_out(bundle: Bundle, own_cache: Path) -> None:
    def fail(phase: str) -> None:
        if phase not in ("parsing",):
            raise RuntimeError(phase)

    with pytest.raises(RuntimeError):
        build(bundle, Precision.FP32, progress=fail)
    assert not own_cache.exists()


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.TENSORRT_RTX])
def test_opening_says_what_is_missing_first(bundle: Bundle, target: Target) -> None:
    """No TensorRT, then no pycuda, then no GPU, then no engine: one of them is missing in every test run."""
    with pytest.raises(EdgewiseError) as caught:
        open_engine(bundle, backend=target, precision=Precision.FP16)
    assert any(word in str(caught.value) for word in ("extra", "pycuda", "CUDA device", "engine is built"))
    assert caught.value.hint


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an SM86 card and pycuda, as far as opening an engine asks before TensorRT does."""
    gpu = Gpu(0, "a pretended GPU", "sm86", 28)
    for asking in ("edgewise.exporter.engines.build", "edgewise.runtime.engines.tensorrt"):
        monkeypatch.setattr(f"{asking}.find_gpu", lambda index=0: gpu)
    context = SimpleNamespace(push=lambda: None)

    class Devices:
        count = staticmethod(lambda: 1)

        def __new__(cls, index: int) -> object:
            return SimpleNamespace(retain_primary_context=lambda: context)

    driver = SimpleNamespace(
        Error=RuntimeError, init=lambda: None, Device=Devices, Context=SimpleNamespace(pop=lambda: None)
    )
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)


@pytest.mark.usefixtures("pretended_gpu")
def test_opening_names_the_command_that_builds_the_engine(bundle: Bundle) -> None:
    build(bundle, Precision.FP16)
    build(bundle, Precision.INT8, compute_capabilities=("sm89",))
    with pytest.raises(BackendError, match="no int8 engine is built for a pretended GPU, 28") as caught:
        open_engine(bundle, backend=Target.TENSORRT_RTX, precision=Precision.INT8)
    assert "--target tensorrt-rtx --precision int8" in caught.value.hint


@pytest.mark.skipif(find_spec("pycuda") is not None, reason="the GPU tests open engines here")
@pytest.mark.usefixtures("pretended_gpu")
def test_opening_hands_the_built_engine_to_tensorrt(bundle: Bundle) -> None:
    """Without a driver TensorRT-RTX itself refuses to load it, which is the furthest a CPU gets."""
    record = build(bundle, Precision.FP16)
    with pytest.raises(BackendError, match="the engine does not load") as caught:
        open_engine(bundle, backend=Target.TENSORRT_RTX, precision=Precision.FP16)
    assert record.sha256 in caught.value.where


@pytest.mark.skipif(find_spec("pycuda") is not None, reason="the GPU tests open engines here")
@pytest.mark.usefixtures("pretended_gpu")
def test_the_installed_release_chooses_the_file(tmp_path: Path) -> None:
    """Both for the build and for the look into the cache: a file for a release of tomorrow is not read."""
    path = make_bundle(tmp_path / "two.bundle").path
    manifest = Bundle.open(path).manifest
    graph = manifest.graphs["main"]
    tomorrow = [
        msgspec.structs.replace(file, path="models/tomorrow.onnx", since="99")
        for file in graph.files
        if file.target is Target.TENSORRT_RTX
    ]
    graph = msgspec.structs.replace(graph, files=(*tomorrow, *graph.files))
    files = {"models/tomorrow.onnx": b"a file that only a later parser reads"}
    bundle = update_bundle(
        Bundle.open(path), msgspec.structs.replace(manifest, graphs={"main": graph}), files
    )
    record = build(bundle, Precision.INT8)
    assert record.key.model_sha256 == hashlib.sha256(bundle.read("models/int8.onnx")).hexdigest()
    with_realised(bundle, record)
    with pytest.raises(BackendError, match="the engine does not load"):
        open_engine(bundle, backend=Target.TENSORRT_RTX, precision=Precision.INT8)


@pytest.mark.usefixtures("pretended_gpu")
def test_without_named_targets_the_gpu_of_this_machine_is_built_for(bundle: Bundle) -> None:
    record = build_engine(bundle, Target.TENSORRT_RTX, Precision.FP16)
    assert (record.key.compute_capabilities, record.key.gpu) == (("sm86",), "")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "tolerance"), [(Precision.FP32, 1e-4), (Precision.FP16, 1e-2), (Precision.INT8, 5e-2)]
)
@pytest.mark.parametrize("target", [Target.TENSORRT, Target.TENSORRT_RTX])
def test_engine_agrees_with_onnxruntime(
    bundle: Bundle, target: Target, precision: Precision, tolerance: float
) -> None:
    """Build here, run here. `tolerance`: largest relative difference of the scores."""
    try:
        import_tensorrt(target, verb="run")
    except MissingExtraError as error:
        pytest.skip(error.what)
    with pytest.raises(BackendError, match=r"no .* engine is built"):
        open_engine(bundle, backend=target, precision=precision)
    build_engine(bundle, target, precision)
    engine = open_engine(bundle, backend=target, precision=precision)
    reference = open_engine(bundle, backend=Target.ONNXRUNTIME, precision=precision)
    image = {"image": np.random.default_rng(1).integers(0, 256, IMAGE.shape, dtype=np.uint8)}
    wanted, first, second = reference.run(image), engine.run(image), engine.run(image)
    for name in SPECS:
        np.testing.assert_array_equal(first[name], second[name])
    largest = float(np.abs(wanted["scores"]).max())
    assert float(np.abs(first["scores"] - wanted["scores"]).max()) <= tolerance * largest
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine.run(image)
