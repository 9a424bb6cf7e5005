"""What holds for every kind of result: records read back, reports have words, no other room names a kind."""

from __future__ import annotations

import ast
import inspect
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import msgspec
import numpy as np
import pytest

import edgewise.runtime as runtime
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.compare.matching import match
from edgewise.runtime.contract import postprocessing
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import KeypointLayout, Manifest, Precision
from edgewise.runtime.contract.postprocessing import (
    BoxedKeypoints,
    BoxedPoints,
    CentredBoxes,
    ChartSurface,
    DetectedBoxes,
    HeatmapKeypoints,
    OutputName,
    PanopticFusion,
    PanopticSegments,
    PastedInstances,
    Postprocess,
    PrototypeInstances,
    RegressedKeypoints,
    ResultKind,
    read_postprocess,
)
from edgewise.runtime.decoding import kinds
from edgewise.runtime.decoding.kinds import KINDS, kind_of, register
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.kinds.surface.crops import SurfaceCrops
from edgewise.runtime.kinds.surface.result import Surface
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.results.kind import Kind, Likeness, Nouns
from edgewise.runtime.results.outputs import Outputs, only_look, read_output
from edgewise.runtime.results.result import Record, Scored
from edgewise.runtime.system.errors import ManifestError, ResultError

from .conftest import ONE_THREAD, bright_frame, detector, detector_manifest
from .five_classes import CAT, DOG, GRASS, LABELS, SKY
from .hand_built import build
from .test_cli import Verb, edgewise

__all__ = ["edgewise"]

SIZE = (40, 60)
LAYOUT = KeypointLayout(names=("head", "hip", "foot"), sigmas=(0.05, 0.1, 0.1))
RUNTIME = Path(runtime.__path__[0])


def instances() -> Instances:
    """Two cats that overlap, a dog without a pixel."""
    masks = np.zeros((3, *SIZE), np.bool_)
    masks[0, 5:20, 5:25] = masks[1, 10:30, 20:50] = True
    return Instances(
        boxes=np.array([[5, 5, 25, 20], [20, 10, 50, 30], [2.25, 31, 9.75, 38.5]], np.float32),
        scores=np.array([0.9, 0.6, 0.2], np.float32),
        classes=np.array([CAT, CAT, DOG], np.int32),
        masks=crop_dense(masks),
        labels=LABELS,
        frame_size=SIZE,
    )


def boxes() -> Boxes:
    """Two cats that overlap, an unsure dog."""
    return Boxes(
        boxes=np.array([[5, 5, 25, 20], [20, 10, 50, 30], [2.25, 31, 9.75, 38.5]], np.float32),
        scores=np.array([0.9, 0.6, 0.2], np.float32),
        classes=np.array([CAT, CAT, DOG], np.int32),
        labels=LABELS,
        frame_size=SIZE,
    )


def panoptic() -> Panoptic:
    """A sure dog and an unsure cat on sky and grass, and a void corner."""
    segments = np.ones(SIZE, np.uint16)
    segments[20:] = 2
    segments[5:25, 10:30], segments[10:15, 40:50], segments[-4:, -4:] = 3, 4, 0
    return Panoptic.of_segments(segments, [SKY, GRASS, DOG, CAT], [1.0, 1.0, 0.9, 0.3], LABELS)


def keypoints() -> Keypoints:
    points = np.array([[[10, 5], [12, 20], [14.25, 35]], [[40, 8], [41.5, 18], [42, 30]]], np.float32)
    return Keypoints(
        points=points,
        point_scores=np.array([[0.9, 0.8, 0.1], [0.3, 0.4, 0.5]], np.float32),
        boxes=np.array([[5, 2, 20, 38], [35, 4, 50, 35]], np.float32),
        scores=np.array([0.85, 0.4], np.float32),
        classes=np.array([CAT, CAT], np.int32),
        labels=LABELS,
        layout=LAYOUT,
        frame_size=SIZE,
        display_threshold=0.2,
        point_threshold=0.2,
    )


def surface() -> Surface:
    """A sure person of two parts and an unsure one that overlap, and one of whom nothing is seen."""
    places = np.array([[5, 5, 20, 15], [20, 10, 30, 20], [2, 31, 7, 7]])
    crops = []
    for _, _, w, h in places.tolist():
        labels = np.repeat([1, 2], [h // 2, h - h // 2]).astype(np.uint8)[:, None].repeat(w, axis=1)
        rows, columns = np.mgrid[:h, :w]
        # The middles of the 256 steps that records know.
        steps = np.floor(np.stack([columns / w, rows / h]) * 255)
        crops.append((labels, ((steps + 0.5) / 255).astype(np.float32)))
    crops[2] = (np.zeros((7, 7), np.uint8), np.zeros((2, 7, 7), np.float32))
    return Surface(
        boxes=np.array([[5, 5, 25, 20], [20.5, 10, 50.5, 30], [2.25, 31, 9.75, 38.5]], np.float32),
        scores=np.array([0.9, 0.6, 0.2], np.float32),
        classes=np.array([CAT, CAT, DOG], np.int32),
        crops=SurfaceCrops.of(crops, places, SIZE),
        parts=2,
        labels=LABELS,
        frame_size=SIZE,
    )


EXAMPLES: dict[type[Postprocess], tuple[Postprocess, Scored]] = {
    DetectedBoxes: (DetectedBoxes(), boxes()),
    CentredBoxes: (CentredBoxes(), boxes()),
    PrototypeInstances: (PrototypeInstances(), instances()),
    PastedInstances: (PastedInstances(), instances()),
    PanopticSegments: (PanopticSegments(), panoptic()),
    PanopticFusion: (PanopticFusion(semantic_classes=()), panoptic()),
    HeatmapKeypoints: (HeatmapKeypoints(), keypoints()),
    RegressedKeypoints: (RegressedKeypoints(), keypoints()),
    BoxedKeypoints: (BoxedKeypoints(point_threshold=0.2), keypoints()),
    BoxedPoints: (BoxedPoints(), keypoints()),
    ChartSurface: (ChartSurface(parts=2), surface()),
}
SEEN_FROM_HALF = {
    Boxes: Counter(cat=2),
    Instances: Counter(cat=2),
    Panoptic: Counter(dog=1, sky=1, grass=1),
    Keypoints: Counter(cat=1),
    Surface: Counter(cat=2),
}
EXTENTS = {
    Boxes: ["20 x 15", "30 x 20", "8 x 8"],
    Instances: ["300", "600", "0"],
    Panoptic: ["400", "50", str(20 * 60 - 15 * 20 - 50), str(20 * 60 - 5 * 20 - 16)],
    Keypoints: ["2 of 3", "3 of 3"],
    Surface: ["2 on 300", "2 on 600", "0 on 0"],
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.spec.__name__)


def described(spec: Postprocess) -> Manifest:
    return msgspec.structs.replace(
        detector_manifest({}), postprocess=spec, classes=LABELS, keypoints=LAYOUT, name="described"
    )


def test_rows_are_the_kinds_that_manifests_can_name() -> None:
    structs = {
        value
        for value in vars(postprocessing).values()
        if inspect.isclass(value)
        and issubclass(value, Postprocess)
        and value not in (Postprocess, ResultKind)
    }
    assert set(KINDS) == structs == set(EXAMPLES)
    assert all(spec is kind.spec for spec, kind in KINDS.items())
    for spec, (example, _) in EXAMPLES.items():
        plain = msgspec.to_builtins(example)
        assert read_postprocess(json.loads(msgspec.json.encode(plain))) == example
        assert kind_of(described(example)) is KINDS[spec]
    with pytest.raises(msgspec.ValidationError, match="kind 'depth'") as caught:
        read_postprocess({"kind": "depth"})
    known = str(caught.value).split("known: ")[1].split(", ")
    assert known == sorted(spec.__struct_config__.tag for spec in structs)


@every_kind
def test_records_read_back_as_the_result_that_wrote_them(kind: Kind) -> None:
    spec, found = EXAMPLES[kind.spec]
    records = json.loads(json.dumps(found.records(3)))
    assert len(records) == len(found)
    again = kind.read(spec, described(spec), records, SIZE)
    assert type(again) is type(found)
    assert again.frame_size == SIZE
    assert (again.labels, again.names) == (found.labels, found.names)
    assert again.display_threshold == spec.shown_from
    matching = match(kind, found, again, threshold=0.0, margin=0.0)
    assert matching.pairs == tuple((index, index) for index in range(len(found)))
    assert matching.tally.similarity == pytest.approx(1, abs=1e-6)
    assert (matching.tally.matched_fraction, matching.tally.score_difference) == (
        1,
        pytest.approx(0, abs=1e-6),
    )
    # COCO records round boxes to tenths of a pixel.
    np.testing.assert_allclose(again.boxes, found.boxes, atol=0.1)
    # What was read writes the same records.
    assert again.records(3) == records


@every_kind
def test_nothing_found_reads_back_too(kind: Kind) -> None:
    spec, found = EXAMPLES[kind.spec]
    again = kind.read(spec, described(spec), [], SIZE)
    assert type(again) is type(found)
    assert len(again) == 0
    assert match(kind, again, again, threshold=0.0).tally.both_empty == 1
    assert match(kind, found, again, threshold=0.0).tally.one_empty == 1


@every_kind
def test_every_result_is_like_itself_and_its_things_are_apart(kind: Kind) -> None:
    _, found = EXAMPLES[kind.spec]
    alike = kind.alike(found, found)
    assert alike.similarity.shape == alike.affinity.shape == (len(found), len(found))
    np.testing.assert_array_equal(alike.similarity.diagonal(), 1)
    assert (alike.affinity.diagonal() == 1).all()
    apart = ~np.eye(len(found), dtype=bool)
    assert (alike.affinity[apart] < 0.5).all()


@every_kind
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((*SIZE, 4), np.uint8), ((SIZE[0], SIZE[1] + 1, 3), np.uint8), ((*SIZE, 3), np.float32)],
)
def test_only_the_frame_that_a_result_belongs_to_is_drawn_on(
    kind: Kind, shape: tuple[int, ...], dtype: type
) -> None:
    _, found = EXAMPLES[kind.spec]
    assert found.draw(np.zeros((*SIZE, 3), np.uint8)).any()
    with pytest.raises(ResultError, match=r"frame to draw on .* belongs to a uint8 \[40, 60, 3\] frame"):
        found.draw(np.zeros(shape, dtype))


@every_kind
def test_what_reports_say(kind: Kind) -> None:
    _, found = EXAMPLES[kind.spec]
    words = (kind.nouns.thing, kind.nouns.things, kind.nouns.similarity)
    assert all(words)
    assert len(set(words)) == 3
    assert kind.counts(found, 0.5) == SEEN_FROM_HALF[type(found)]
    assert sum(kind.counts(found, 0.0).values()) == len(found)
    assert kind.extent is not None
    title, values = kind.extent(found)
    assert title
    assert values == EXTENTS[type(found)]


def test_only_panoptic_kinds_have_files_of_their_own() -> None:
    """The sinks take what their own kind gives, so no other kind may offer them."""
    names = {spec: [name for form in kind.sinks for name in form.names] for spec, kind in KINDS.items()}
    assert {spec for spec, own in names.items() if own} == {PanopticSegments, PanopticFusion}
    assert names[PanopticSegments] == names[PanopticFusion] == ["panoptic.json", "panoptic"]


# ---------------------------------------------------------------- no other room names a kind


def imported_names(source: str) -> set[str]:
    """What a module takes from elsewhere: names, and the parts of the modules they come from."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names} | {f"from {node.module}"}
        elif isinstance(node, ast.Import):
            names |= {f"from {alias.name}" for alias in node.names}
    return names


def test_no_other_room_names_a_kind() -> None:
    concrete = {spec.__name__ for spec in KINDS} | {type(found).__name__ for _, found in EXAMPLES.values()}
    own = {Path("decoding/kinds.py"), Path("contract/postprocessing.py"), Path("__init__.py")}
    checked, offending = 0, []
    for path in sorted(RUNTIME.rglob("*.py")):
        place = path.relative_to(RUNTIME)
        if place.parts[0] in ("kinds", ".venv") or place in own:
            continue
        checked += 1
        names = imported_names(path.read_text())
        taken = names & concrete
        taken |= {name for name in names if name.startswith("from edgewise.runtime.kinds")}
        offending += [f"{place}: {name}" for name in sorted(taken)]
    assert checked > 30
    assert not offending


# ---------------------------------------------------------------- a kind from elsewhere


class Brightness(ResultKind, frozen=True, kw_only=True, tag="brightness"):
    """One number a cell: a result without scores."""

    task: ClassVar[str] = "brightness"
    maps: OutputName = "masks"


@dataclass(frozen=True, eq=False)
class BrightMap:
    """Values 0..1 in cells over the frame."""

    values: np.ndarray
    frame_size: tuple[int, int]

    def draw(self, frame: np.ndarray, threshold: float | None = None) -> np.ndarray:
        return frame.copy()

    def records(self, image_id: int) -> list[Record]:
        return [{"image_id": image_id, "values": self.values.tolist()}]


def decode_brightness(
    spec: Brightness, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> BrightMap:
    _, only = only_look(looks, outputs)
    return BrightMap(read_output(only, spec.maps, (1, 2, 8, 12), np.float32)[0, 0], looks.frame_size)


def read_brightness(
    spec: Brightness, manifest: Manifest, records: Sequence[Record], frame_size: tuple[int, int]
) -> BrightMap:
    return BrightMap(np.array(records[0]["values"], np.float32), frame_size)


def alike_brightness(first: BrightMap, second: BrightMap) -> Likeness:
    similarity = np.array([[1 - float(np.abs(first.values - second.values).mean())]])
    return Likeness(similarity, similarity)


def bright_cells(found: BrightMap, threshold: float) -> Counter[str]:
    return Counter({"bright": int((found.values >= 0.5).sum())})


BRIGHTNESS = Kind(
    spec=Brightness,
    nouns=Nouns("map", "maps", "closeness"),
    decode=decode_brightness,
    read=read_brightness,
    alike=alike_brightness,
    counts=bright_cells,
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is known for one test."""
    monkeypatch.setattr(kinds, "KINDS", dict(KINDS))
    monkeypatch.setattr(postprocessing, "_KNOWN", dict(postprocessing._KNOWN))
    register(BRIGHTNESS)


def build_bright_bundle(folder: Path, shipped: bytes | None = None) -> Path:
    draft = msgspec.structs.replace(
        detector_manifest({Precision.FP32: "models/fp32.onnx"}), postprocess=Brightness(), name="bright"
    )
    return build(folder, draft, detector(), shipped, [(bright_frame(200), None)])


@pytest.mark.usefixtures("registered")
def test_a_kind_from_elsewhere_runs_everywhere(edgewise: Verb, tmp_path: Path) -> None:
    good = build_bright_bundle(tmp_path / "good")
    report = selftest(Bundle.open(good), ONE_THREAD)
    assert report.passed, report.failures
    # Without slots and maps every float output is compared.
    assert {"boxes", "scores", "masks"} <= {check.subject for check in report.checks}
    dim = build_bright_bundle(tmp_path / "dim", detector(mask_scale=0.5))
    found = {(check.subject, check.figure) for check in selftest(Bundle.open(dim), ONE_THREAD).failures}
    assert {("masks", "relative error"), ("result", "mean similarity")} <= found
    cv2.imwrite(str(tmp_path / "bright.png"), bright_frame(200))
    status, out, error = edgewise("run", good, tmp_path / "bright.png", "-o", tmp_path / "out")
    assert status == 0, error
    assert "maps" in out
    assert f"{8 * 12 * 3 // 4}" in out
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert np.array(record["values"]).shape == (8, 12)


@pytest.mark.usefixtures("registered")
def test_a_kind_is_registered_once() -> None:
    with pytest.raises(ManifestError, match="Brightness has a kind already"):
        register(BRIGHTNESS)


def test_a_kind_that_nobody_registered() -> None:
    """The struct alone is not enough, and nothing of the fixture stays behind."""
    with pytest.raises(ManifestError, match="nothing here decodes results of the kind Brightness"):
        kind_of(described(Brightness()))
    with pytest.raises(msgspec.ValidationError, match="kind 'brightness'"):
        read_postprocess({"kind": "brightness"})
