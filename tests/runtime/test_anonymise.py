"""`run --anonymise`: what is found is covered wherever it is written; what is not certain is not written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.runtime.command.anonymise import Withheld, anonymiser
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.pixels.cover import Cover
from edgewise.runtime.pixels.covering import covered
from edgewise.runtime.system.errors import ResultError
from edgewise.runtime.walk.box_sources import DetectorBoxes

from .conftest import LABELS, build_bundle, detector, detector_manifest
from .pose_bundle import build_pose_bundle
from .test_cli import Verb, edgewise

__all__ = ["edgewise"]

EVERY = list(Cover)
COVERED = (slice(8, 56), slice(8, 48))
"""In frames of 64x96, the box of the detector's first slot."""


def checked(value: int) -> np.ndarray:
    """A frame of 64x96 pixels that is full of edges and has this mean."""
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[::2, ::2] = frame[1::2, 1::2] = 2 * value
    return frame


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One thing, as many as the graph has slots, nothing."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, value in (("one", 60), ("full", 120), ("nothing", 10)):
        cv2.imwrite(str(folder / f"{name}.png"), checked(value))
    return folder


def edges(image: np.ndarray | None, part: tuple[slice, slice]) -> float:
    assert image is not None
    return float(np.abs(np.diff(image[part].astype(int), axis=1)).mean())


@pytest.mark.parametrize("cover", EVERY)
def test_pictures_show_nothing_that_was_found(
    edgewise: Verb, bundle_folder: Path, pictures: Path, tmp_path: Path, cover: Cover
) -> None:
    out = tmp_path / "out"
    status, text, error = edgewise("run", bundle_folder, pictures, "-o", out, "--anonymise", cover.value)
    assert status == 0, error
    assert sorted(path.name for path in (out / "overlay").iterdir()) == ["nothing.jpg", "one.jpg"]
    assert edges(cv2.imread(str(out / "overlay" / "one.jpg")), COVERED) < 4
    assert edges(cv2.imread(str(out / "overlay" / "one.jpg")), (slice(0, 64), slice(60, 96))) > 50
    assert edges(cv2.imread(str(out / "overlay" / "nothing.jpg")), COVERED) > 10
    images = {image["file_name"]: image for image in json.loads((out / "images.json").read_text())}
    assert "all 2 slots" in images["full.png"]["skipped"]
    assert "skipped 1: full.png" in text.replace("\n", " ")
    assert {record["image_id"] for record in json.loads((out / "results.json").read_text())} == {
        images[name]["id"] for name in ("one.png", "nothing.png")
    }


def test_videos_show_nothing_that_was_found(edgewise: Verb, bundle_folder: Path, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.avi", tmp_path / "out"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for value in (60, 120, 60, 60):
        writer.write(checked(value))
    writer.release()
    assert edgewise("run", bundle_folder, clip, "-o", out, "--anonymise", "box")[0] == 0
    held = cv2.VideoCapture(str(out / "overlay.mp4"))
    frames = [frame for good, frame in (held.read() for _ in range(5)) if good]
    assert len(frames) == 3, "the frame of which more may be found than the graph has slots is left out"
    assert all(frame[20:44, 20:36].max() < 30 for frame in frames)


def test_a_run_of_frames_that_are_all_withheld_is_an_error(
    edgewise: Verb, bundle_folder: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "full.png"), checked(120))
    out = tmp_path / "out"
    status, _, error = edgewise("run", bundle_folder, tmp_path / "full.png", "-o", out, "--anonymise", "blur")
    assert status == 1
    assert "withheld" in error
    assert not (out / "overlay").exists()


def test_a_result_that_is_no_number_leaves_nothing(edgewise: Verb, pictures: Path, tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "made", models={Precision.FP32: detector(dazzled=100.0)})
    out = tmp_path / "out"
    assert edgewise("run", bundle, pictures, "-o", out, "--anonymise", "pixelate")[0] == 1
    assert not (out / "overlay").exists()


def boxes(**changes: object) -> Boxes:
    found = Boxes(
        boxes=np.array([[8, 8, 24, 32]], np.float32),
        scores=np.array([0.2], np.float32),
        classes=np.zeros(1, np.int32),
        labels=LABELS,
        frame_size=(64, 96),
    )
    return replace(found, **changes)


def test_a_frame_whose_suppression_is_not_settled_is_withheld() -> None:
    frame = Frame(3, "frame", checked(60), 0.0)
    hide = anonymiser(Cover.BOX, detector_manifest({}), None, frozenset())
    assert not hide(frame, boxes()).image[8:32, 8:24].any(), "0.2 is below the display threshold of 0.3"
    assert frame.image[8:32, 8:24].any(), "the source's own frame stays as it is"
    with pytest.raises(Withheld, match="rounds"):
        hide(frame, boxes(settled=False))
    with pytest.raises(Withheld, match="score"):
        hide(frame, boxes(scores=np.array([np.nan], np.float32)))


def test_a_frame_whose_detector_is_not_settled_is_withheld() -> None:
    hide = anonymiser(Cover.BOX, detector_manifest({}), None, frozenset())
    with pytest.raises(Withheld, match="rounds"):
        replace(hide, incomplete={3})(Frame(3, "frame", checked(60), 0.0), boxes())

    class Unsettled:
        manifest = detector_manifest({})

        def reset(self) -> None: ...

        def __call__(self, image: np.ndarray) -> Boxes:
            return boxes(settled=False)

    source = DetectorBoxes(Unsettled(), "bright")  # type: ignore[arg-type]
    source.boxes(Frame(7, "frame", checked(60), 0.0))
    assert source.incomplete == {7}


def test_a_low_threshold_covers_more_and_a_high_one_not_less() -> None:
    frame = Frame(0, "frame", checked(60), 0.0)
    for threshold, score, hidden in ((0.05, 0.1, True), (0.9, 0.2, True), (None, 0.1, False)):
        hide = anonymiser(Cover.BOX, detector_manifest({}), threshold, frozenset())
        image = hide(frame, boxes(scores=np.array([score], np.float32))).image
        assert image[8:32, 8:24].any() != hidden


@pytest.mark.parametrize("cover", EVERY)
def test_boxes_at_the_edge_and_of_no_extent(cover: Cover) -> None:
    frame = checked(100)
    places = np.array(
        [[-20, -20, 4, 4], [90, 60, 200, 90], [40, 30, 40, 30], [300, 300, 320, 320]], np.float32
    )
    image = covered(frame, places, cover)
    assert (image[0, 0] != frame[0, 0]).any() or cover is not Cover.BOX
    assert edges(image, (slice(0, 6), slice(0, 6))) < 40
    np.testing.assert_array_equal(image[10:25, 10:30], frame[10:25, 10:30])
    with pytest.raises(ResultError, match="not finite"):
        covered(frame, np.array([[np.nan, 0, 4, 4]], np.float32), cover)


def test_nobody_may_be_left_out(edgewise: Verb, bundle_folder: Path, pictures: Path, tmp_path: Path) -> None:
    pose = build_pose_bundle(tmp_path / "pose")
    status, _, error = edgewise("run", pose, pictures, "--anonymise", "blur")
    assert status == 1
    assert "--boxes" in error
    asked = ("run", pose, pictures, "--boxes", bundle_folder, "--most-boxes", "3", "--anonymise", "blur")
    status, _, error = edgewise(*asked)
    assert status == 1
    assert "stay visible" in error
