"""Boxes from files and detectors reach the right frames, or an error says why not."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import SourceError
from edgewise.runtime.walk.box_sources import CocoBoxes, DetectorBoxes, require_crops
from edgewise.runtime.walk.session import Session

from .conftest import ONE_THREAD, bright_frame, detector_manifest
from .pose_bundle import BOXES, PEOPLE, build_pose_bundle, person_frame, pose_manifest

PERSON = ClassLabel(id=1, name="person")
EMPTY = np.zeros((8, 8, 3), np.uint8)


def frame(name: str, index: int = 0, image_id: int | None = None) -> Frame:
    return Frame(index, name, EMPTY, 0.0, index if image_id is None else image_id)


def box(x: float, **fields: object) -> dict[str, object]:
    return {"bbox": [x, 1, 2, 4], "score": 0.5, "category_id": 1, **fields}


def annotations(**changes: object) -> dict[str, object]:
    content: dict[str, object] = {
        "info": {"anything": None},
        "images": [
            {"id": 7, "file_name": "images/a.png", "width": 9},
            {"id": 9, "file_name": "b.png"},
            {"id": 11, "file_name": "c.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "bbox": [1, 1, 2, 4], "category_id": 1, "iscrowd": 0, "area": 8},
            {"id": 2, "image_id": 7, "bbox": [2, 1, 2, 4], "category_id": 1},
            {"id": 3, "image_id": 7, "bbox": [3, 1, 2, 4], "category_id": 2},
            {"id": 4, "image_id": 7, "bbox": [4, 1, 2, 4], "category_id": 1, "iscrowd": 1},
            {"id": 5, "image_id": 7, "bbox": [5, 1, 0, 4], "category_id": 1},
            {"id": 6, "image_id": 7, "bbox": [6.5, 1, 2, 4], "category_id": 1},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "disc"}],
    }
    return content | changes


def written(folder: Path, content: object, name: str = "boxes.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


def lefts(source: CocoBoxes, *wanted: Frame) -> list[list[float]]:
    return [source.boxes(one).boxes[:, 0].tolist() for one in wanted]


def test_annotations_are_matched_by_file_name(tmp_path: Path) -> None:
    source = CocoBoxes.open(written(tmp_path, annotations()), PERSON)
    assert lefts(source, frame("a.png"), frame("b.png"), frame("c.png")) == [[2, 6.5], [1], []]
    found = source.boxes(frame("a.png"))
    assert found.boxes[0].tolist() == [2, 1, 4, 5]
    assert found.scores.tolist() == [1, 1]


def test_another_class_by_name(tmp_path: Path) -> None:
    source = CocoBoxes.open(written(tmp_path, annotations()), PERSON, class_name="disc")
    assert lefts(source, frame("a.png")) == [[3]]


def test_frames_of_a_video_are_matched_by_position(tmp_path: Path) -> None:
    source = CocoBoxes.open(written(tmp_path, annotations()), PERSON)
    assert lefts(source, frame("clip-000009", 9), frame("clip-000007", 7)) == [[1], [2, 6.5]]


def test_an_image_that_the_file_does_not_name_is_no_other_image(tmp_path: Path) -> None:
    """Its position is the number of another image there."""
    source = CocoBoxes.open(written(tmp_path, annotations()), PERSON)
    with pytest.raises(SourceError, match=r"does not know the frame 'x\.png'"):
        source.boxes(frame("x.png", 7))


def test_detections_by_number(tmp_path: Path) -> None:
    content = [box(1, image_id=42), box(2, image_id=43, category_id=5), box(3, image_id=43)]
    source = CocoBoxes.open(written(tmp_path, content), PERSON)
    assert lefts(source, frame("000042.jpg", 0, 42), frame("clip-000043", 43)) == [[1], [3]]
    with pytest.raises(SourceError, match="does not know") as caught:
        source.boxes(frame("000044.jpg", 2, 44))
    assert "images.json" in caught.value.hint


def test_detections_by_file_name(tmp_path: Path) -> None:
    content = [{"file_name": "sub/a.png", "bbox": [1, 2, 3, 4]}, box(5, file_name="b.png")]
    source = CocoBoxes.open(written(tmp_path, content), PERSON)
    assert lefts(source, frame("a.png"), frame("b.png", 1)) == [[1], [5]]
    with pytest.raises(SourceError, match="does not know"):
        source.boxes(frame("c.png", 2))


def test_an_image_that_the_run_skipped_is_not_one_without_boxes(tmp_path: Path) -> None:
    images = [{"id": 0, "file_name": "a.png"}, {"id": 1, "file_name": "b.png", "skipped": "it is corrupt"}]
    written(tmp_path, images, "images.json")
    source = CocoBoxes.open(written(tmp_path, [], "results.json"), PERSON)
    assert lefts(source, frame("a.png", 0)) == [[]]
    with pytest.raises(SourceError, match=r"does not know the frame 'b\.png'"):
        source.boxes(frame("b.png", 1))


def test_detections_beside_the_images_of_a_run(tmp_path: Path) -> None:
    written(
        tmp_path,
        [{"id": 0, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}],
        "images.json",
    )
    source = CocoBoxes.open(written(tmp_path, [box(1, image_id=1)], "results.json"), PERSON)
    # The folder is read in another order than in the run that wrote the detections.
    assert lefts(source, frame("b.png", 0), frame("a.png", 1)) == [[1], []]
    with pytest.raises(SourceError, match="does not know"):
        source.boxes(frame("c.png", 1))


def test_least_score_and_most(tmp_path: Path) -> None:
    content = [box(n, image_id=0, score=score) for n, score in enumerate((0.3, 0.9, 0.1, 0.8))]
    file = written(tmp_path, content)
    assert lefts(CocoBoxes.open(file, PERSON, least_score=0.3), frame("f", 0)) == [[0, 1, 3]]
    assert lefts(CocoBoxes.open(file, PERSON, most=2), frame("f", 0)) == [[1, 3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "neither a COCO annotation file"),
        ({"images": []}, "neither a COCO annotation file"),
        ([{"image_id": 1, "bbox": [1, 2, 3]}], "neither a COCO annotation file"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 7}], "neither a COCO annotation file"),
        ([{"bbox": [1, 2, 3, 4]}], "neither image_id nor file_name"),
        (annotations(categories=[{"id": 2, "name": "disc"}]), "no category of the file is called 'person'"),
        (annotations(images=[{"id": 7, "file_name": "a.png"}]), "image 9, which is not listed"),
        (
            annotations(images=[{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "x/a.png"}]),
            "two images have the same file name",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: object, message: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(SourceError, match=message) as caught:
        CocoBoxes.open(file, PERSON)
    assert caught.value.where == str(file)


def test_a_missing_file_and_a_class_of_a_list(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        CocoBoxes.open(tmp_path / "gone.json", PERSON)
    with pytest.raises(SourceError, match="no names of classes"):
        CocoBoxes.open(written(tmp_path, []), PERSON, class_name="person")


# ---------------------------------------------------------------- a detector in front


@pytest.fixture
def detector(bundle_folder: Path) -> Generator[Session]:
    with Session.open(bundle_folder, backend=ONE_THREAD) as opened:
        yield opened


def test_a_detector_gives_boxes_of_one_class(detector: Session) -> None:
    shown = Frame(0, "a.png", bright_frame(200), 0.0)
    found = DetectorBoxes(detector, "bright").boxes(shown)
    assert found.boxes.tolist() == [[8, 8, 48, 56]]
    np.testing.assert_array_equal(found.scores, detector(shown.image).scores[:1])
    # "dim" scores half as much: 0.33 of 200's brightness, above the display threshold of 0.3.
    assert len(DetectorBoxes(detector, "dim").boxes(shown)) == 1
    assert len(DetectorBoxes(detector, "dim", least_score=0.4).boxes(shown)) == 0


def test_a_dark_frame_has_nobody(detector: Session) -> None:
    assert len(DetectorBoxes(detector, "bright").boxes(Frame(0, "", bright_frame(0), 0.0))) == 0


def test_detectors_that_cannot_be_used(detector: Session, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="knows no class 'person'; it knows bright, dim"):
        DetectorBoxes(detector)
    with (
        Session.open(build_pose_bundle(tmp_path / "pose"), backend=ONE_THREAD) as pose,
        pytest.raises(SourceError, match="looks at crops itself"),
    ):
        DetectorBoxes(pose)


def test_only_models_of_crops_take_boxes() -> None:
    require_crops(pose_manifest())
    with pytest.raises(SourceError, match="whole frames"):
        require_crops(detector_manifest({}))


# ---------------------------------------------------------------- sessions with boxes


@pytest.fixture
def pose(tmp_path: Path) -> Generator[Session]:
    with Session.open(build_pose_bundle(tmp_path / "pose"), backend=ONE_THREAD) as opened:
        yield opened


def people_file(folder: Path, shifts: list[float]) -> Path:
    """Annotations for a video whose frame n shows PEOPLE moved by shifts[n], or nobody where it is NaN."""
    boxes = [
        {"image_id": index, "category_id": 1, "bbox": [x1 + shift, y1, x2 - x1, y2 - y1]}
        for index, shift in enumerate(shifts)
        if not np.isnan(shift)
        for x1, y1, x2, y2 in BOXES.tolist()
    ]
    images = [{"id": index, "file_name": f"f{index}"} for index in range(len(shifts))]
    category = {"id": 1, "name": "person"}
    return written(folder, {"images": images, "annotations": boxes, "categories": [category]})


def test_a_stream_looks_where_its_boxes_say(pose: Session, tmp_path: Path) -> None:
    shifts = [0.0, 10.0, float("nan"), 20.0]
    boxes = CocoBoxes.open(people_file(tmp_path, shifts), PERSON)
    frames = [
        Frame(n, f"clip-{n:06d}", person_frame(PEOPLE + np.nan_to_num([shift, 0])), 0.0, n)
        for n, shift in enumerate(shifts)
    ]
    streamed = list(pose.stream(frames, boxes))
    assert [len(result) for _, result in streamed] == [2, 2, 0, 2]
    for (shown, result), shift in zip(streamed, shifts, strict=True):
        alone = pose(shown.image, boxes.boxes(shown))
        assert isinstance(result, Keypoints)
        assert isinstance(alone, Keypoints)
        np.testing.assert_array_equal(result.points, alone.points)
        if len(result):
            # A heatmap cell is about two and a half source pixels, the discs are flat on top.
            assert np.abs(result.points - PEOPLE - [shift, 0]).max() < 6


def test_an_unknown_frame_ends_the_stream_after_the_frames_before_it(pose: Session, tmp_path: Path) -> None:
    boxes = CocoBoxes.open(people_file(tmp_path, [0.0, 0.0]), PERSON)
    frames = [Frame(n, f"clip-{n:06d}", person_frame(PEOPLE), 0.0, n) for n in range(4)]
    done = []
    with pytest.raises(SourceError, match="does not know the frame 'clip-000002'"):
        done.extend(shown.index for shown, _ in pose.stream(frames, boxes))
    assert done == [0, 1]


def test_a_detector_runs_in_front_of_a_stream(pose: Session, detector: Session) -> None:
    frames = [bright_frame(value) for value in (200, 0, 180)]
    streamed = list(pose.stream(frames, DetectorBoxes(detector, "bright")))
    assert [len(result) for _, result in streamed] == [1, 0, 1]
    np.testing.assert_array_equal(streamed[0][1].boxes, [[8, 8, 48, 56]])


def test_the_flip_test_takes_two_looks(tmp_path: Path) -> None:
    frame, boxes = person_frame(PEOPLE), CocoBoxes.open(people_file(tmp_path, [0.0]), PERSON)
    looked = boxes.boxes(Frame(0, "f", frame, 0.0))
    folder = build_pose_bundle(tmp_path / "flipping", flip_test=True)
    results = {}
    for flip_test in (None, True, False):
        settings = {} if flip_test is None else {"postprocess.flip_test": str(flip_test).lower()}
        with Session.open(folder, backend=ONE_THREAD, settings=settings) as session:
            prepared = session.walk.prepare(Frame(0, "f", frame, 0.0), looked)
            assert len(prepared.looks.looks) == (2 if flip_test is False else 4)
            results[flip_test] = session.walk.finish(session.walk.infer(prepared))
    # The model sees colours only, so that a mirrored crop gives the mirrored maps.
    np.testing.assert_allclose(results[None].points, results[False].points, atol=3)
    np.testing.assert_array_equal(results[None].points, results[True].points)
