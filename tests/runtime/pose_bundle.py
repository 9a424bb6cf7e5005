"""A hand-built pose model in a real bundle: where a crop is bluest, greenest and reddest."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import msgspec
import numpy as np
from onnx import TensorProto, helper

from edgewise.runtime.contract.manifest import (
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
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.frames.looks import FrameBoxes

from .conftest import ONE_THREAD, _constant, _serialise, budget, write_files

CROP = (64, 48)
IMAGE = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, *CROP, 3))
HEATMAPS = TensorSpec(
    name="heatmaps", dtype=DType.FLOAT32, shape=(1, 3, CROP[0] // 4, CROP[1] // 4), value_range=(0.0, 1.0)
)
LAYOUT = KeypointLayout(
    names=("nose", "left_hand", "right_hand"),
    flip_pairs=((0, 0), (1, 1), (2, 2)),  # a colour stays what it is in a mirror
    limbs=((0, 1), (0, 2)),
    sigmas=(0.1, 0.1, 0.1),
)
DOTS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
"""BGR of the keypoints."""


def pose_model(*, batch: int | str = 1) -> bytes:
    """Each heatmap is one colour channel of the crop, 4x smaller; a name leaves the first axis free."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "white"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["heatmaps"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, *IMAGE.shape[1:]])
    heatmaps = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, [batch, *HEATMAPS.shape[1:]])
    return _serialise(nodes, [image], [heatmaps], [_constant("white", 255.0, np.float32)])


def pose_manifest(*, flip_test: bool = False, batch: int = 1) -> Manifest:
    file = GraphFile(target=Target.ONNXRUNTIME, precision=Precision.FP32, path="models/fp32.onnx")
    return Manifest(
        writer="edgewise tests",
        name="pose",
        classes=(ClassLabel(id=1, name="person"),),
        keypoints=LAYOUT,
        provenance=Provenance(definition="tests.pose"),
        graphs={"main": Graph(inputs=(IMAGE,), outputs=(HEATMAPS,), files=(file,), batch=batch)},
        preprocess=AffineCrop(size=CROP),
        postprocess=HeatmapKeypoints(flip_test=flip_test, display_threshold=0.3),
        budgets=(budget(Precision.FP32),),
    )


def person_frame(points: np.ndarray, size: tuple[int, int] = (160, 240)) -> np.ndarray:
    """A black frame with a coloured disc about every point; points [n, 3, 2] in continuous pixels."""
    frame = np.zeros((*size, 3), np.uint8)
    for person in points:
        for (x, y), colour in zip(person.tolist(), DOTS, strict=True):
            place = (round((x - 0.5) * 16), round((y - 0.5) * 16))
            cv2.circle(frame, place, 7 * 16, colour, cv2.FILLED, cv2.LINE_AA, 4)
    return frame


PEOPLE = np.array([[[40, 40], [60, 80], [22, 90]], [[160, 50], [190, 100], [140, 110]]], np.float64)
BOXES = np.array([[10, 20, 75, 110], [125, 30, 205, 130]], np.float64)


def build_pose_bundle(
    folder: Path, *, flip_test: bool = False, batch: int = 1, model: bytes | None = None
) -> Path:
    """A bundle whose golden shows two people.

    Args:
        batch: Most looks of a launch.
        model: In place of the pose model, of free batch where that is more than 1.
    """
    manifest = pose_manifest(flip_test=flip_test, batch=batch)
    frame, shipped = person_frame(PEOPLE), model or pose_model(batch=1 if batch == 1 else "looks")
    model = pose_model()
    engine = OnnxRuntimeEngine(model, inputs=(IMAGE,), outputs=(HEATMAPS,), where="truth", options=ONE_THREAD)
    looks = looks_of(manifest, frame, FrameBoxes(BOXES, np.ones(2, np.float32)))
    outputs = [engine.run({"image": look.tensor}) for look in looks.looks]
    buffer = io.BytesIO()
    np.savez(buffer, heatmaps=np.concatenate([output["heatmaps"] for output in outputs]))
    golden = GoldenFrame(
        image="goldens/000.png",
        tensors="goldens/000.npz",
        result="goldens/000.json",
        boxes=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in BOXES.tolist()),
    )
    files = {
        "models/fp32.onnx": shipped,
        golden.image: cv2.imencode(".png", frame)[1].tobytes(),
        golden.tensors: buffer.getvalue(),
        golden.result: msgspec.json.encode(decode_result(manifest, looks, outputs).records(0)),
    }
    return write_files(folder, msgspec.structs.replace(manifest, goldens=(Golden(frames=(golden,)),)), files)
