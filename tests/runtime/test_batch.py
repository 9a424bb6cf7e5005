"""Several looks in one launch: the results of one launch each, in fewer launches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgewise.runtime.contract.check import check
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.engines.base import HostState, Tensor
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import BackendError, ManifestError, SourceError
from edgewise.runtime.walk.session import Session
from edgewise.runtime.walk.walk import Walk

from .conftest import ONE_THREAD, build_video_bundle, video_manifest
from .pose_bundle import (
    BOXES,
    HEATMAPS,
    IMAGE,
    PEOPLE,
    build_pose_bundle,
    person_frame,
    pose_manifest,
    pose_model,
)
from .test_walk import SCHEDULE

BATCH = 3
FRAME = person_frame(PEOPLE)


def crowd(count: int) -> FrameBoxes:
    """So many different boxes about the two people."""
    shifts = np.arange(count)[:, None] * np.array([0.5, 0.25, 1.5, 0.75])
    boxes = BOXES[np.arange(count) % 2] + shifts if count else np.zeros((0, 4))
    return FrameBoxes(boxes.astype(np.float64), np.linspace(0.5, 1.0, count, dtype=np.float32))


class Counted(HostState):
    """An engine that takes several looks, with the number of each launch."""

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine = engine
        self.launches: list[int] = []

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def batch(self) -> int:
        return self._engine.batch

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.launches.append(len(inputs["image"]))
        return self._engine.run(inputs)


def pose_engine(batch: int) -> OnnxRuntimeEngine:
    model = pose_model(batch=1 if batch == 1 else "looks")
    return OnnxRuntimeEngine(
        model, inputs=(IMAGE,), outputs=(HEATMAPS,), where="pose", batch=batch, options=ONE_THREAD
    )


ALONE = pose_engine(1)


def same(first: Result, second: Result) -> None:
    assert isinstance(first, Keypoints)
    assert isinstance(second, Keypoints)
    for name in ("points", "point_scores", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@settings(deadline=None)
@given(batch=st.sampled_from([1, 2, BATCH, 8]), data=st.data(), flip_test=st.booleans())
def test_any_number_of_people_is_what_each_is_alone(batch: int, data: st.DataObject, flip_test: bool) -> None:
    count = data.draw(st.integers(0, 2 * batch + 1))
    manifest = pose_manifest(flip_test=flip_test, batch=batch)
    runner = Counted(pose_engine(batch))
    together = Walk(manifest, {"main": runner})(FRAME, crowd(count))
    same(together, Walk(manifest, {"main": ALONE})(FRAME, crowd(count)))
    looks = count * (2 if flip_test else 1)
    assert len(runner.launches) == math.ceil(looks / batch)
    assert sum(runner.launches) == looks


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 5), max_size=6))
def test_images_of_several_cameras_share_launches(counts: list[int]) -> None:
    manifest = pose_manifest(batch=BATCH)
    engine = pose_engine(BATCH)
    images = [person_frame(PEOPLE, (160 + 8 * number, 240)) for number in range(len(counts))]
    boxes = [crowd(count) for count in counts]
    with Session(manifest, {"main": engine}) as session:
        runner = Counted(engine)
        session.walk.runners["main"] = runner
        together = session.together(images, boxes)
        assert len(runner.launches) == math.ceil(sum(counts) / BATCH)
        for image, where, result in zip(images, boxes, together, strict=True):
            same(result, session(image, where))
            assert result.frame_size == image.shape[:2]
        with pytest.raises(SourceError, match="1 sets of boxes for 2 images"):
            session.together([FRAME, FRAME], [None])


def test_a_model_with_state_takes_one_camera(tmp_path: Path) -> None:
    with (
        Session.open(build_video_bundle(tmp_path / "video.bundle", SCHEDULE), backend=ONE_THREAD) as session,
        pytest.raises(SourceError, match="session of its own"),
    ):
        session.together([FRAME])


class Crowds:
    """Boxes of every frame of a stream."""

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts

    def boxes(self, frame: Frame) -> FrameBoxes:
        return crowd(self._counts[frame.index])


@pytest.mark.parametrize("counts", [[], [0, 0], [1, 1, 1, 1, 1], [1, 3, 0, 7, 2, 2, 1]])
def test_a_stream_that_gathers_gives_what_one_that_does_not_gives(tmp_path: Path, counts: list[int]) -> None:
    frames = [np.roll(FRAME, 3 * number, axis=1) for number in range(len(counts))]
    with Session.open(
        build_pose_bundle(tmp_path / "pose.bundle", batch=BATCH), backend=ONE_THREAD
    ) as session:
        engine = session.engines["main"]
        assert isinstance(engine, OnnxRuntimeEngine)
        runner = Counted(engine)
        session.walk.runners["main"] = runner
        gathered = list(session.stream(frames, Crowds(counts), gather=True))
        launches = list(runner.launches)
        plain = list(session.stream(frames, Crowds(counts)))
        assert [frame.index for frame, _ in gathered] == list(range(len(counts)))
        for (_, first), (_, second) in zip(gathered, plain, strict=True):
            same(first, second)
    if counts == [1, 1, 1, 1, 1]:
        assert launches == [3, 2]


def test_errors_come_after_the_results_of_the_frames_before_them(tmp_path: Path) -> None:
    def frames(broken: int) -> Generator[np.ndarray]:
        for number in itertools.count():
            if number == broken:
                raise SourceError("the source broke")
            yield FRAME

    with Session.open(
        build_pose_bundle(tmp_path / "pose.bundle", batch=BATCH), backend=ONE_THREAD
    ) as session:
        for broken in range(2 * BATCH):
            done: list[Result] = []
            with pytest.raises(SourceError, match="the source broke"):
                done.extend(result for _, result in session.stream(frames(broken), gather=True))
            assert len(done) == broken


def nan_in_the_dark() -> bytes:
    """Heatmaps of free batch that are NaN for a crop which is all black."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["float"], ["brightest"], axes=[1, 2, 3]),
        helper.make_node("Div", ["float", "brightest"], ["seen"]),
        helper.make_node("Transpose", ["seen"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["heatmaps"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["looks", *IMAGE.shape[1:]])
    heatmaps = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["looks", *HEATMAPS.shape[1:]])
    graph = helper.make_graph(nodes, "nan", [image], [heatmaps])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


def test_nan_of_one_look_is_no_other_frames(tmp_path: Path) -> None:
    """Of a launch of three frames the second holds NaN: the first has its result, the second the error."""
    bright = np.full((80, 60, 3), 200, np.uint8)
    path = build_pose_bundle(tmp_path / "pose.bundle", batch=BATCH, model=nan_in_the_dark())
    with Session.open(path, backend=ONE_THREAD) as session:
        done: list[Result] = []
        frames = [bright, np.zeros_like(bright), bright]
        with pytest.raises(BackendError, match="'heatmaps' holds NaN"):
            done.extend(result for _, result in session.stream(frames, gather=True))
        assert len(done) == 1


def test_an_engine_takes_one_to_its_batch() -> None:
    engine = pose_engine(BATCH)
    looks = np.zeros((BATCH + 1, *IMAGE.shape[1:]), np.uint8)
    for count in range(1, BATCH + 1):
        assert len(engine.run({"image": looks[:count]})["heatmaps"]) == count
    for count in (0, BATCH + 1):
        with pytest.raises(BackendError, match=f"{count} looks are given to a graph that takes 1 to 3"):
            engine.run({"image": looks[:count]})
    with pytest.raises(BackendError, match="missing"):
        engine.run({})
    with pytest.raises(BackendError, match="63"):
        engine.run({"image": looks[:2, 1:]})


def test_a_file_of_one_look_is_refused_where_the_manifest_says_several() -> None:
    with pytest.raises(BackendError, match="'image' takes one look, the manifest says 3"):
        OnnxRuntimeEngine(
            pose_model(), inputs=(IMAGE,), outputs=(HEATMAPS,), where="pose", batch=BATCH, options=ONE_THREAD
        )


def with_batch(manifest: Manifest) -> Manifest:
    graphs = {name: msgspec.structs.replace(graph, batch=BATCH) for name, graph in manifest.graphs.items()}
    return msgspec.structs.replace(manifest, graphs=graphs)


def test_manifests_whose_graphs_cannot_take_several_looks() -> None:
    check(with_batch(pose_manifest()))
    with pytest.raises(ManifestError, match="takes 3 frames, and state passes from each to the next"):
        check(with_batch(video_manifest(SCHEDULE)))
    manifest = pose_manifest(batch=BATCH)
    wide = msgspec.structs.replace(HEATMAPS, shape=(3, *HEATMAPS.shape[1:]))
    graph = msgspec.structs.replace(manifest.graphs["main"], outputs=(wide,))
    with pytest.raises(ManifestError, match="'heatmaps' has no first axis of 1"):
        check(msgspec.structs.replace(manifest, graphs={"main": graph}))
