"""Hand-built bundles of the other two kinds: a model of crops with a flip test, and a panoptic head."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
from onnx import TensorProto, helper

from edgewise.runtime.contract.manifest import (
    ClassKind,
    ClassLabel,
    DType,
    Golden,
    GoldenFrame,
    Graph,
    GraphFile,
    KeypointLayout,
    Manifest,
    Precision,
    Provenance,
    Target,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints, PanopticSegments
from edgewise.runtime.contract.preprocessing import AffineCrop, Stretch
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.frames.looks import FrameBoxes

from .conftest import ONE_THREAD, _constant, _serialise, budget, write_files

POSE_SIZE = (64, 48)
HEATMAPS = TensorSpec(name="heatmaps", dtype=DType.FLOAT32, shape=(1, 2, 16, 12))
PANOPTIC_SIZE = (32, 48)
PANOPTIC_OUTPUTS = (
    TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, 2), value_range=(0.0, 1.0)),
    TensorSpec(name="classes", dtype=DType.INT32, shape=(1, 2)),
    TensorSpec(name="segments", dtype=DType.INT32, shape=(1, 8, 12)),
    TensorSpec(name="semantic", dtype=DType.INT32, shape=(1, 8, 12)),
)
PANOPTIC_LABELS = (
    ClassLabel(id=4, name="ball"),
    ClassLabel(id=9, name="meadow", kind=ClassKind.STUFF),
    ClassLabel(id=11, name="sky", kind=ClassKind.STUFF),
)
Look = tuple[np.ndarray, FrameBoxes | None]


def pose_network(*, gain: float = 1.0, shift: int = 0) -> bytes:
    """Heatmaps of redness and of blueness, a cell for 4 x 4 pixels; `shift` moves them to the right."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["channels", "red_and_blue"], ["two"], axis=1),
        helper.make_node("AveragePool", ["two"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Mul", ["pooled", "scale"], ["maps"]),
        helper.make_node("Pad", ["maps", "pads"], ["heatmaps"]),
    ]
    constants = [
        _constant("red_and_blue", [2, 0], np.int64),
        _constant("scale", gain / 255.0, np.float32),
        _constant("pads", [0, 0, 0, shift, 0, 0, 0, -shift], np.int64),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *POSE_SIZE, 3])
    heatmaps = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, list(HEATMAPS.shape))
    return _serialise(nodes, [image], [heatmaps], constants)


def panoptic_network(*, swapped: bool = False, blind: bool = False) -> bytes:
    """Blue is meadow, green sky, red one of two balls: the left half's is slot 0, the right half's slot 1.

    `swapped` exchanges the slots (their scores too, so that the result stays the same); `blind` sees no blue.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["channels", "red_blue_green"], ["three"], axis=1),
        helper.make_node("Mul", ["three", "sight"], ["seen"]),
        helper.make_node("AveragePool", ["seen"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ArgMax", ["pooled"], ["kinds"], axis=1, keepdims=0),
        helper.make_node("Cast", ["kinds"], ["semantic"], to=TensorProto.INT32),
        helper.make_node("Equal", ["semantic", "zero"], ["is_ball"]),
        helper.make_node("Sub", ["semantic", "one"], ["stuff"]),
        helper.make_node("Where", ["is_ball", "slots", "stuff"], ["segments"]),
        helper.make_node("Identity", ["fixed_scores"], ["scores"]),
        helper.make_node("Identity", ["fixed_classes"], ["classes"]),
    ]
    left, right = (3, 2) if swapped else (2, 3)
    halves = np.full((1, 8, 12), left)
    halves[..., 6:] = right
    constants = [
        _constant("red_blue_green", [2, 0, 1], np.int64),
        _constant("sight", np.array([1, 0 if blind else 1, 1]).reshape(1, 3, 1, 1), np.float32),
        _constant("zero", 0, np.int32),
        _constant("one", 1, np.int32),
        _constant("slots", halves, np.int32),
        _constant("fixed_scores", [[0.8, 0.9] if swapped else [0.9, 0.8]], np.float32),
        _constant("fixed_classes", [[0, 0]], np.int32),
    ]
    kinds = {DType.FLOAT32: TensorProto.FLOAT, DType.INT32: TensorProto.INT32}
    outputs = [
        helper.make_tensor_value_info(spec.name, kinds[spec.dtype], list(spec.shape))
        for spec in PANOPTIC_OUTPUTS
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *PANOPTIC_SIZE, 3])
    return _serialise(nodes, [image], outputs, constants)


def pose_manifest() -> Manifest:
    return _manifest(
        name="hand-built pose",
        classes=(ClassLabel(id=1, name="person"),),
        keypoints=KeypointLayout(names=("red", "blue"), flip_pairs=((0, 0), (1, 1)), limbs=((0, 1),)),
        graphs={"main": _graph(POSE_SIZE, (HEATMAPS,))},
        preprocess=AffineCrop(size=POSE_SIZE),
        postprocess=HeatmapKeypoints(flip_test=True),
    )


def panoptic_manifest() -> Manifest:
    return _manifest(
        name="hand-built panoptic",
        classes=PANOPTIC_LABELS,
        graphs={"main": _graph(PANOPTIC_SIZE, PANOPTIC_OUTPUTS)},
        preprocess=Stretch(size=PANOPTIC_SIZE),
        postprocess=PanopticSegments(stuff_area_limit=16),
    )


def people_frame() -> Look:
    """Two people: a red disc as the head and a blue one below, in a box each; the frame is 100 x 120."""
    frame = np.zeros((100, 120, 3), np.uint8)
    boxes = [(10.0, 8.0, 50.0, 92.0), (61.5, 20.0, 111.25, 80.0)]
    for x1, y1, x2, y2 in boxes:
        middle = round((x1 + x2) / 2)
        cv2.circle(frame, (middle - 6, round(y1 + 14)), 5, (0, 0, 255), cv2.FILLED)
        cv2.circle(frame, (middle + 4, round(y2 - 16)), 6, (255, 0, 0), cv2.FILLED)
    return frame, FrameBoxes(np.array(boxes), np.ones(2, np.float32))


def one_person_frame() -> Look:
    frame, boxes = people_frame()
    return frame, FrameBoxes(boxes.boxes[1:], boxes.scores[1:])


def balls_frame(*, balls: bool = True) -> Look:
    """Sky over meadow and a red ball on each side; 64 x 96."""
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:32] = (0, 200, 0)
    frame[32:] = (220, 0, 0)
    for left in (20, 72) if balls else ():
        cv2.circle(frame, (left, 34), 10, (0, 0, 255), cv2.FILLED)
    return frame, None


def build_pose_bundle(folder: Path, shipped: bytes | None = None) -> Path:
    return build(folder, pose_manifest(), pose_network(), shipped, [people_frame(), one_person_frame()])


def build_panoptic_bundle(folder: Path, shipped: bytes | None = None) -> Path:
    frames = [balls_frame(), balls_frame(balls=False)]
    return build(folder, panoptic_manifest(), panoptic_network(), shipped, frames)


def build(
    folder: Path, draft: Manifest, truth: bytes, shipped: bytes | None, samples: Sequence[Look]
) -> Path:
    """A bundle whose goldens come from `truth` and whose model is `shipped` (the same where None)."""
    graph = draft.graphs["main"]
    engine = OnnxRuntimeEngine(
        truth, inputs=graph.inputs, outputs=graph.outputs, where="truth", options=ONE_THREAD
    )
    files = {"models/fp32.onnx": truth if shipped is None else shipped}
    goldens = []
    for number, (frame, boxes) in enumerate(samples):
        looks = looks_of(draft, frame, boxes)
        outputs = [engine.run({"image": look.tensor}) for look in looks.looks]
        buffer = io.BytesIO()
        np.savez(buffer, **{name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]})
        stem = f"goldens/{number:03d}"
        places = () if boxes is None else tuple(tuple(box) for box in boxes.boxes.tolist())
        golden = GoldenFrame(image=f"{stem}.png", tensors=f"{stem}.npz", result=f"{stem}.json", boxes=places)
        files[golden.image] = cv2.imencode(".png", frame)[1].tobytes()
        files[golden.tensors] = buffer.getvalue()
        files[golden.result] = msgspec.json.encode(decode_result(draft, looks, outputs).records(number))
        goldens.append(Golden(frames=(golden,)))
    return write_files(folder, msgspec.structs.replace(draft, goldens=tuple(goldens)), files)


def _graph(size: tuple[int, int], outputs: tuple[TensorSpec, ...]) -> Graph:
    file = GraphFile(target=Target.ONNXRUNTIME, precision=Precision.FP32, path="models/fp32.onnx")
    image = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, *size, 3))
    return Graph(inputs=(image,), outputs=outputs, files=(file,))


def _manifest(**fields: object) -> Manifest:
    return Manifest(
        writer="edgewise tests",
        provenance=Provenance(definition="tests.hand_built"),
        budgets=(budget(Precision.FP32),),
        **fields,  # type: ignore[arg-type]
    )
