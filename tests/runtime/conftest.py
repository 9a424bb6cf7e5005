"""Tiny hand-built models in real bundles: the engine, the hashes and the decoding are all the real ones."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.runtime.contract.encoding import encode
from edgewise.runtime.contract.manifest import (
    Budget,
    ClassLabel,
    DType,
    FileEntry,
    Golden,
    GoldenFrame,
    Graph,
    GraphFile,
    Manifest,
    Precision,
    Provenance,
    StateTensor,
    Target,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import Postprocess, PrototypeInstances
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.contract.schedules import Schedule
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.engines.options import OnnxRuntimeOptions
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.results.result import Result
from edgewise.runtime.walk.schedule import graph_choice

SIZE = (32, 48)
SLOTS = 2
ONE_THREAD = OnnxRuntimeOptions(threads=1)

IMAGE = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, *SIZE, 3))
OUTPUTS = (
    TensorSpec(name="boxes", dtype=DType.FLOAT32, shape=(1, SLOTS, 4)),
    TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, SLOTS), value_range=(0.0, 1.0)),
    TensorSpec(name="classes", dtype=DType.INT32, shape=(1, SLOTS)),
    TensorSpec(name="masks", dtype=DType.FLOAT32, shape=(1, SLOTS, 8, 12), value_range=(0.0, 1.0)),
)
LABELS = (ClassLabel(id=3, name="bright"), ClassLabel(id=7, name="dim"))


def _constant(name: str, values: object, dtype: type[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def _serialise(nodes: list, inputs: list, outputs: list, constants: list) -> bytes:
    graph = helper.make_graph(nodes, "hand-built", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def detector(
    *, score_scale: float = 1.0, nan: bool = False, mask_scale: float = 1.0, dazzled: float = 256.0
) -> bytes:
    """Two slots whose scores are the image's mean brightness and half of it; masks are the image, 4x smaller.

    `score_scale` and `mask_scale` make a model that answers wrongly; `nan` one that gives NaN, `dazzled` one
    that does so on images of that mean brightness or more.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "all_axes"], ["mean"], keepdims=0),
        helper.make_node("Less", ["mean", "dazzling"], ["seen"]),
        helper.make_node("Where", ["seen", "mean", "unknown"], ["measured"]),
        helper.make_node("Div", ["measured", "white"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "shares"], ["one_and_half"]),
        helper.make_node("Unsqueeze", ["one_and_half", "first"], ["scores"]),
        helper.make_node("ReduceMean", ["float", "channel_axis"], ["grey"], keepdims=0),
        helper.make_node("Div", ["grey", "mask_white"], ["grey_unit"]),
        helper.make_node("Unsqueeze", ["grey_unit", "first"], ["grey_map"]),
        helper.make_node("AveragePool", ["grey_map"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Concat", ["small", "small"], ["masks"], axis=1),
        helper.make_node("Identity", ["fixed_boxes"], ["boxes"]),
        helper.make_node("Identity", ["fixed_classes"], ["classes"]),
    ]
    shares = [score_scale, score_scale * (float("nan") if nan else 0.5)]
    constants = [
        _constant("all_axes", [0, 1, 2, 3], np.int64),
        _constant("channel_axis", [3], np.int64),
        _constant("first", [0], np.int64),
        _constant("white", 255.0, np.float32),
        _constant("dazzling", dazzled, np.float32),
        _constant("unknown", np.nan, np.float32),
        _constant("mask_white", 255.0 / mask_scale, np.float32),
        _constant("shares", shares, np.float32),
        _constant("fixed_boxes", [[[4, 4, 24, 28], [26, 2, 46, 30]]], np.float32),
        _constant("fixed_classes", [[0, 1]], np.int32),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, SLOTS, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, SLOTS]),
        helper.make_tensor_value_info("classes", TensorProto.INT32, [1, SLOTS]),
        helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, SLOTS, 8, 12]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SIZE, 3])
    return _serialise(nodes, [image], outputs, constants)


def entry(path: str, data: bytes) -> FileEntry:
    return FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_files(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Write a bundle folder whose manifest lists exactly `files`."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    listed = tuple(entry(path, data) for path, data in files.items())
    (folder / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, files=listed)))
    return folder


def budget(precision: Precision) -> Budget:
    return Budget(
        precision=precision,
        tensor_relative_error=1e-4,
        tensor_cosine=0.9999,
        matched_fraction=1.0,
        similarity=0.99,
        score_difference=1e-3,
        metric_drop=1e-3,
    )


def bright_frame(value: int = 200, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A frame with a bright left half, so that masks have an edge; uint8 BGR."""
    frame = np.full((*size, 3), value, np.uint8)
    frame[:, size[1] * 3 // 4 :] = value // 3
    return frame


def detector_manifest(models: Mapping[Precision, str]) -> Manifest:
    files = tuple(
        GraphFile(target=Target.ONNXRUNTIME, precision=precision, path=path)
        for precision, path in models.items()
    )
    return Manifest(
        writer="edgewise tests",
        name="hand-built",
        classes=LABELS,
        provenance=Provenance(definition="tests.detector"),
        graphs={"main": Graph(inputs=(IMAGE,), outputs=OUTPUTS, files=files)},
        preprocess=Stretch(size=SIZE),
        postprocess=PrototypeInstances(display_threshold=0.3),
        budgets=tuple(budget(precision) for precision in models),
    )


def golden_frame(
    stem: str, frame: np.ndarray, outputs: Mapping[str, np.ndarray], result: Result
) -> tuple[GoldenFrame, dict[str, bytes]]:
    """A frame of a golden, and its files."""
    buffer = io.BytesIO()
    np.savez(buffer, **outputs)
    golden = GoldenFrame(image=f"{stem}.png", tensors=f"{stem}.npz", result=f"{stem}.json")
    return golden, {
        golden.image: cv2.imencode(".png", frame)[1].tobytes(),
        golden.tensors: buffer.getvalue(),
        golden.result: msgspec.json.encode(result.records(0)),
    }


def build_bundle(
    folder: Path,
    *,
    models: Mapping[Precision, bytes] | None = None,
    postprocess: Postprocess | None = None,
) -> Path:
    """A bundle whose goldens (a bright and a black frame) come from the unspoilt detector."""
    chosen = dict(models) if models is not None else {Precision.FP32: detector()}
    paths = {precision: f"models/{precision.value}.onnx" for precision in chosen}
    manifest = detector_manifest(paths)
    if postprocess is not None:
        manifest = msgspec.structs.replace(manifest, postprocess=postprocess)
    files = {paths[precision]: data for precision, data in chosen.items()}
    truth = OnnxRuntimeEngine(detector(), inputs=(IMAGE,), outputs=OUTPUTS, where="truth", options=ONE_THREAD)
    goldens = []
    for number, frame in enumerate((bright_frame(), np.zeros((40, 40, 3), np.uint8))):
        tensor, _ = preprocess(manifest.preprocess, frame)
        outputs = truth.run({"image": tensor})
        result = decode_result(manifest, looks_of(manifest, frame), [outputs])
        golden, written = golden_frame(f"goldens/{number:03d}", frame, outputs, result)
        files |= written
        goldens.append(Golden(frames=(golden,)))
    return write_files(folder, msgspec.structs.replace(manifest, goldens=tuple(goldens)), files)


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    return build_bundle(tmp_path / "bundle")


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(**options: object) -> Path:
        return build_bundle(tmp_path / "made", **options)  # type: ignore[arg-type]

    return make


MEMORY = TensorSpec(name="memory", dtype=DType.FLOAT32, shape=(1, 1))


def video_graph(*, key: bool, sight: float = 1.0, kept: float = 1.0) -> bytes:
    """Both slots' scores are the memory: what key frames left, an exponential mean of their brightness.

    The key graph reads the memory, moves it half way to the image's brightness, and gives it out; the other
    graph only reads it. `sight` and `kept` scale scores and memory, for graphs that answer wrongly.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["brightness"]),
        helper.make_node("Add", ["memory", "brightness"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["mixed"]),
        helper.make_node("Mul", ["mixed" if key else "memory", "sight"], ["seen"]),
        helper.make_node("Expand", ["seen", "slots"], ["scores"]),
        helper.make_node("Identity", ["fixed_boxes"], ["boxes"]),
        helper.make_node("Identity", ["fixed_classes"], ["classes"]),
        helper.make_node("Identity", ["fixed_masks"], ["masks"]),
    ]
    constants = [
        _constant("axes", [0, 1, 2, 3], np.int64),
        _constant("white", 255.0, np.float32),
        _constant("half", 0.5, np.float32),
        _constant("sight", sight, np.float32),
        _constant("kept", kept, np.float32),
        _constant("slots", [1, SLOTS], np.int64),
        _constant("fixed_boxes", [[[4, 4, 24, 28], [26, 2, 46, 30]]], np.float32),
        _constant("fixed_classes", [[0, 1]], np.int32),
        _constant("fixed_masks", np.ones((1, SLOTS, 8, 12)), np.float32),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SIZE, 3]),
        helper.make_tensor_value_info("memory", TensorProto.FLOAT, [1, 1]),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, SLOTS, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, SLOTS]),
        helper.make_tensor_value_info("classes", TensorProto.INT32, [1, SLOTS]),
        helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, SLOTS, 8, 12]),
    ]
    if key:
        nodes.append(helper.make_node("Mul", ["mixed", "kept"], ["next_memory"]))
        outputs.append(helper.make_tensor_value_info("next_memory", TensorProto.FLOAT, [1, 1]))
    return _serialise(nodes, inputs, outputs, constants)


def video_manifest(schedule: Schedule, *, initial_value: float = 0.0) -> Manifest:
    """Graphs `key` and `nonkey`, both reading the memory that `key` writes."""
    next_memory = msgspec.structs.replace(MEMORY, name="next_memory")
    graphs = {
        name: Graph(
            inputs=(IMAGE, MEMORY),
            outputs=(*OUTPUTS, next_memory) if name == "key" else OUTPUTS,
            files=(
                GraphFile(target=Target.ONNXRUNTIME, precision=Precision.FP32, path=f"models/{name}.onnx"),
            ),
        )
        for name in ("key", "nonkey")
    }
    state = StateTensor(
        name="memory",
        spec=MEMORY,
        source="key.next_memory",
        sinks=("key.memory", "nonkey.memory"),
        initial_value=initial_value,
    )
    return msgspec.structs.replace(
        detector_manifest({}),
        graphs=graphs,
        state=(state,),
        schedule=schedule,
        budgets=(budget(Precision.FP32),),
    )


def build_video_bundle(
    folder: Path,
    schedule: Schedule,
    *,
    initial_value: float = 0.0,
    clips: Sequence[Sequence[np.ndarray]] = (),
    shipped: Mapping[str, bytes] | None = None,
) -> Path:
    """A bundle of two graphs with state between frames.

    Args:
        clips: Frames of each golden, whose outputs come from the unspoilt graphs.
        shipped: Other models than those, by graph.
    """
    manifest = video_manifest(schedule, initial_value=initial_value)
    truth = {name: video_graph(key=name == "key") for name in manifest.graphs}
    files = {f"models/{name}.onnx": data for name, data in (truth | dict(shipped or {})).items()}
    engines = {
        name: OnnxRuntimeEngine(
            truth[name], inputs=graph.inputs, outputs=graph.outputs, where="truth", options=ONE_THREAD
        )
        for name, graph in manifest.graphs.items()
    }
    goldens = []
    for number, clip in enumerate(clips):
        choose, memory = graph_choice(schedule), np.full((1, 1), initial_value, np.float32)
        frames = []
        for index, frame in enumerate(clip):
            looks = looks_of(manifest, frame)
            outputs = engines[choose(frame)].run({"image": looks.looks[0].tensor, "memory": memory})
            memory = outputs.get("next_memory", memory)
            result = decode_result(manifest, looks, [outputs])
            golden, written = golden_frame(f"goldens/{number}-{index}", frame, outputs, result)
            frames.append(golden)
            files |= written
        goldens.append(Golden(frames=tuple(frames)))
    return write_files(folder, msgspec.structs.replace(manifest, goldens=tuple(goldens)), files)


@pytest.fixture
def make_video_bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(schedule: Schedule, **options: object) -> Path:
        return build_video_bundle(tmp_path / "video", schedule, **options)  # type: ignore[arg-type]

    return make
