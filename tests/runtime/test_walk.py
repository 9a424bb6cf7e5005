"""The way of a frame, over runners with opaque state: it passes from writer to reader and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.preprocessing import AsIs
from edgewise.runtime.contract.schedules import KeyEveryN
from edgewise.runtime.engines.base import HostState, Ran, Tensor
from edgewise.runtime.engines.opening import open_engine
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.result import Result, Scored
from edgewise.runtime.system.errors import SourceError
from edgewise.runtime.walk.walk import Preparation, Walk

from .conftest import IMAGE, ONE_THREAD, OUTPUTS, SLOTS, build_bundle, video_manifest

SCHEDULE = KeyEveryN(key="key", nonkey="nonkey", n=2)
BRIGHTNESS = (255, 0, 51, 255)
SEEN = (0.5, 0.5, 0.35, 0.35)
"""Memory: 0 -> (0 + 1) / 2 by the first key frame -> (0.5 + 0.2) / 2 by the third frame."""


def frame(value: int) -> np.ndarray:
    return np.full((64, 96, 3), value, np.uint8)


def best(result: Result) -> float:
    assert isinstance(result, Scored)
    return float(result.scores[0])


class HostGraph(HostState):
    """A graph of the video bundle in numpy; without a memory it says what it sees."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        brightness = inputs["image"].mean(keepdims=True).reshape(1, 1) / 255
        memory = inputs.get("memory", brightness)
        mixed = ((memory + brightness) / 2).astype(np.float32)
        seen = mixed if self.name == "key" else memory
        outputs: dict[str, Tensor] = {
            "boxes": np.array([[[4, 4, 24, 28], [26, 2, 46, 30]]], np.float32),
            "scores": np.repeat(seen, SLOTS, axis=1).astype(np.float32),
            "classes": np.array([[0, 1]], np.int32),
            "masks": np.ones((1, SLOTS, 8, 12), np.float32),
        }
        return outputs | ({"next_memory": mixed} if self.name == "key" else {})


@dataclass(eq=False)
class Handle:
    """State that only the graphs of this test can look into."""

    tensor: Tensor


@dataclass
class Call:
    """What a graph was given, and gave to keep."""

    inputs: set[str]
    state: dict[str, Handle]
    keep: tuple[str, ...]
    held: dict[str, Handle]


@dataclass
class DeviceGraph:
    """The same graph with its state behind handles; it notes every call."""

    name: str
    calls: list[Call | set[str]] = field(default_factory=list)
    """Steps, and the inputs of plain runs."""
    batch: int = 1

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.calls.append(set(inputs))
        return HostGraph(self.name).run(inputs)

    def hold(self, tensor: Tensor) -> Handle:
        return Handle(tensor)

    def step(self, inputs: Mapping[str, Tensor], state: Mapping[str, Handle], keep: Collection[str]) -> Ran:
        tensors = {name: handle.tensor for name, handle in state.items()}
        outputs = HostGraph(self.name).run({**inputs, **tensors})
        held = {name: Handle(outputs[name]) for name in keep}
        self.calls.append(Call(set(inputs), dict(state), tuple(keep), held))
        return Ran(outputs, held)

    @property
    def steps(self) -> list[Call]:
        assert all(isinstance(call, Call) for call in self.calls)
        return [call for call in self.calls if isinstance(call, Call)]


def device_walk(manifest: Manifest) -> tuple[Walk, DeviceGraph, DeviceGraph]:
    key, nonkey = DeviceGraph("key"), DeviceGraph("nonkey")
    return Walk(manifest, {"key": key, "nonkey": nonkey}), key, nonkey


def test_a_refused_frame_is_not_the_key_frame() -> None:
    taken = frame(9)
    exact = AsIs(size=(taken.shape[0], taken.shape[1]))
    prepare = Preparation(msgspec.structs.replace(video_manifest(SCHEDULE), preprocess=exact))
    with pytest.raises(SourceError, match="of exactly"):
        prepare(Frame(0, "another size", taken[1:], 0.0))
    assert prepare(Frame(1, "", taken, 0.0)).graph == "key"


def test_state_passes_as_the_handle_that_its_writer_gave() -> None:
    walk, key, nonkey = device_walk(video_manifest(SCHEDULE))
    assert [best(walk(frame(value))) for value in BRIGHTNESS] == pytest.approx(SEEN)
    assert [call.inputs for call in (*key.steps, *nonkey.steps)] == [{"image"}] * 4
    assert [call.keep for call in key.steps] == [("next_memory",)] * 2
    assert [call.keep for call in nonkey.steps] == [()] * 2
    first, second = key.steps
    written = [first.held["next_memory"], second.held["next_memory"]]
    assert [set(call.state) for call in (*key.steps, *nonkey.steps)] == [{"memory"}] * 4
    assert second.state["memory"] is written[0]
    assert nonkey.steps[0].state["memory"] is written[0]
    assert nonkey.steps[1].state["memory"] is written[1]


def test_a_graph_that_reads_no_state_gets_none() -> None:
    manifest = video_manifest(SCHEDULE)
    (state,) = manifest.state
    graphs = manifest.graphs | {"nonkey": msgspec.structs.replace(manifest.graphs["nonkey"], inputs=(IMAGE,))}
    manifest = msgspec.structs.replace(
        manifest, graphs=graphs, state=(msgspec.structs.replace(state, sinks=("key.memory",)),)
    )
    walk, key, nonkey = device_walk(manifest)
    assert [best(walk(frame(value))) for value in (255, 51, 255)] == pytest.approx([0.5, 0.2, 0.75])
    assert nonkey.calls == [{"image"}]
    assert key.steps[1].state["memory"] is key.steps[0].held["next_memory"]


def test_an_output_that_two_states_keep_is_kept_once() -> None:
    manifest = video_manifest(SCHEDULE)
    (state,) = manifest.state
    own = tuple(
        msgspec.structs.replace(state, name=f"of {graph}", sinks=(f"{graph}.memory",), initial_value=value)
        for graph, value in (("key", 0.4), ("nonkey", 0.9))
    )
    walk, key, nonkey = device_walk(msgspec.structs.replace(manifest, state=own))
    assert [best(walk(frame(value))) for value in (0, 0)] == pytest.approx([0.2, 0.2])
    (step,) = key.steps
    assert step.keep == ("next_memory",)
    assert step.state["memory"].tensor == pytest.approx(np.array([[0.4]]))
    assert nonkey.steps[0].state["memory"] is step.held["next_memory"]


def test_a_model_without_state_only_runs(tmp_path: Path) -> None:
    bundle = Bundle.open(build_bundle(tmp_path / "bundle"))
    runner = DeviceGraph("key")
    walk = Walk(bundle.manifest, {"main": runner})
    assert [best(walk(frame(value))) for value in (255, 51)] == pytest.approx([1.0, 0.2])
    assert runner.calls == [{"image"}] * 2


def test_reset_forgets_state_and_schedule() -> None:
    walk, key, nonkey = device_walk(video_manifest(SCHEDULE, initial_value=0.8))
    assert [best(walk(frame(0))) for _ in range(3)] == pytest.approx([0.4, 0.4, 0.2])
    walk.reset()
    # A first frame again: the key graph runs, on the initial memory.
    assert best(walk(frame(0))) == pytest.approx(0.4)
    assert (len(key.steps), len(nonkey.steps)) == (3, 1)
    start = key.steps[-1].state["memory"]
    assert start is not key.steps[1].held["next_memory"]
    np.testing.assert_array_equal(start.tensor, np.full((1, 1), 0.8, np.float32))
    assert start.tensor.dtype == np.float32


def test_prepared_frames_go_through_two_walks(make_video_bundle: Callable[..., Path]) -> None:
    """Prepared once; each walk has its own runners and its own state."""
    bundle = Bundle.open(make_video_bundle(SCHEDULE))
    host = Walk(bundle.manifest, {name: HostGraph(name) for name in ("key", "nonkey")})
    engines = {name: open_engine(bundle, graph=name, backend=ONE_THREAD) for name in ("key", "nonkey")}
    other = Walk(bundle.manifest, engines)
    late, prepare = Walk(bundle.manifest, engines), Preparation(bundle.manifest)
    found: dict[str, list[float]] = {"host": [], "other": [], "late": []}
    for index, value in enumerate(BRIGHTNESS):
        prepared = prepare(Frame(index, f"{index}", frame(value), 0.0))
        assert prepared.graph == ("key", "nonkey")[index % 2]
        for name, walk in (("host", host), ("other", other), ("late", late)):
            if name == "late" and index < 2:
                continue
            inferred = walk.infer(prepared)
            assert (inferred.frame, inferred.graph) == (prepared.frame, prepared.graph)
            assert inferred.runner == walk.runners[prepared.graph].name
            found[name].append(best(walk.finish(inferred)))
    assert found["host"] == pytest.approx(SEEN)
    assert found["other"] == pytest.approx(SEEN)
    # Its memory starts with the third frame, at (0 + 0.2) / 2, though it shares engines with the other.
    assert found["late"] == pytest.approx([0.1, 0.1])


def test_a_preparation_starts_over() -> None:
    prepare = Preparation(video_manifest(SCHEDULE))
    shown = Frame(0, "", frame(9), 0.0)
    assert [prepare(shown).graph for _ in range(3)] == ["key", "nonkey", "key"]
    prepare.reset()
    assert prepare(shown).graph == "key"


def test_the_outputs_of_a_frame_are_those_of_its_graph() -> None:
    walk, _, _ = device_walk(video_manifest(SCHEDULE))
    names = [spec.name for spec in OUTPUTS]
    for wanted in ({*names, "next_memory"}, set(names)):
        (outputs,) = walk.infer(walk.prepare(Frame(0, "", frame(9), 0.0))).outputs
        assert set(outputs) == wanted
