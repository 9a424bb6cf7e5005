"""Files that appear together, whole, and under names that say how the run ended."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.runtime.command.sinks import CocoResults, OverlayImages, OverlayVideo
from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.system.errors import ResultError

SIZE = (48, 64)


def frame(index: int, name: str = "", size: tuple[int, int] = SIZE) -> Frame:
    image = np.full((*size, 3), 90, np.uint8)
    return Frame(index, name or f"f{index}.png", image, index / 10, index + 100)


def result(count: int = 1, size: tuple[int, int] = SIZE) -> Instances:
    masks = np.zeros((count, *size), np.bool_)
    masks[:, 10:30, 20:50] = True
    return Instances(
        boxes=np.tile(np.array([20, 10, 50, 30], np.float32), (count, 1)),
        scores=np.full(count, 0.9, np.float32),
        classes=np.zeros(count, np.int32),
        masks=crop_dense(masks),
        labels=(ClassLabel(id=5, name="thing"),),
        frame_size=size,
    )


def test_results_are_coco_json_and_list_every_frame(tmp_path: Path) -> None:
    sink = CocoResults(tmp_path / "results.json", tmp_path / "images.json")
    for index, count in enumerate((2, 0, 1)):
        sink.write(frame(index), replace(result(count), settled=index != 2))
    sink.close()
    sink.close()
    results = json.loads((tmp_path / "results.json").read_text())
    images = json.loads((tmp_path / "images.json").read_text())
    assert [record["image_id"] for record in results] == [100, 100, 102]
    assert results[0]["category_id"] == 5
    assert results[0]["segmentation"]["size"] == list(SIZE)
    assert [image["id"] for image in images] == [100, 101, 102]
    assert images[1] == {
        "id": 101,
        "file_name": "f1.png",
        "height": 48,
        "width": 64,
        "timestamp": 0.1,
    }
    assert images[2]["settled"] is False, "the frame needed more suppression rounds than its graph has"


def test_no_frame_at_all_is_an_empty_list(tmp_path: Path) -> None:
    CocoResults(tmp_path / "r.json", tmp_path / "i.json").close()
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_overlay_images_keep_their_names_apart(tmp_path: Path) -> None:
    sink = OverlayImages(tmp_path / "overlay", threshold=0.5)
    for index, name in enumerate(("a.png", "a.jpg", "b.png")):
        sink.write(frame(index, name), result())
    sink.close()
    assert sorted(path.name for path in (tmp_path / "overlay").iterdir()) == [
        "a.jpg",
        "a.jpg.jpg",
        "b.jpg",
    ]
    drawn = cv2.imread(str(tmp_path / "overlay" / "b.jpg"))
    assert drawn is not None
    assert np.abs(drawn.astype(int) - 90).max() > 40


def test_the_threshold_hides_what_scores_less(tmp_path: Path) -> None:
    OverlayImages(tmp_path / "overlay", threshold=0.95).write(frame(0), result())
    drawn = cv2.imread(str(tmp_path / "overlay" / "f0.jpg"))
    assert drawn is not None
    assert np.abs(drawn.astype(int) - 90).max() < 5


def times_of(path: Path) -> list[float]:
    """Seconds at which the frames of a video are shown, as FFmpeg reads them."""
    capture = cv2.VideoCapture(str(path))
    times: list[float] = []
    while capture.read()[0]:
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return times


@pytest.mark.parametrize(
    "times",
    [
        [index / 12.5 for index in range(7)],
        [3.0, 3.04, 3.08, 7.5, 7.5, 700.0, 700.04],  # lost and found again, and twice the same time
        [0.0, 0.24, 0.52, 0.76, 1.0, 1.24, 1.52],
        [5.0],
        [0.0, 300_000.0, 600_000.0],  # longer than a header holds
    ],
)
def test_an_overlay_video_keeps_every_frame_and_its_time(tmp_path: Path, times: list[float]) -> None:
    sink = OverlayVideo(tmp_path / "overlay.mp4", threshold=0.5, fps=12.5)
    for index, seconds in enumerate(times):
        sink.write(replace(frame(index), timestamp=seconds), result())
    sink.close()
    sink.close()
    read = times_of(tmp_path / "overlay.mp4")
    assert read == pytest.approx([seconds - times[0] for seconds in times], abs=1e-3)
    capture = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(times)


def test_a_constant_rate_stays_one(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "overlay.mp4", threshold=0.5, fps=30)
    for index in range(30):
        sink.write(replace(frame(index), timestamp=index / 30), result())
    sink.close()
    capture = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30, abs=0.01)


def test_a_frame_of_another_size_is_fitted_into_the_video(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "overlay.mp4", threshold=0.5, fps=None)
    sink.write(frame(0), result())
    sink.write(frame(1, size=(16, 64)), result(0, (16, 64)))
    sink.write(frame(2, size=(480, 160)), result(0, (480, 160)))
    sink.close()
    capture = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    wide, thin = [np.asarray(capture.read()[1], np.int16) for _ in range(3)][1:]
    assert wide.shape == thin.shape == (*SIZE, 3)
    assert np.abs(wide[18:30] - 90).max() < 20
    assert np.concatenate([wide[:12], wide[-12:]]).max() < 30
    assert np.abs(thin[:, 28:36] - 90).max() < 20
    assert np.concatenate([thin[:, :20], thin[:, -20:]]).max() < 30


def test_a_video_that_lost_its_end_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    sink = OverlayVideo(path, threshold=0.5, fps=10)
    for index in range(5):
        sink.write(frame(index), result())
    # What a full disk does: the writer goes on into a file that does not keep what it gets.
    path.unlink()
    path.write_bytes(b"")
    with pytest.raises(ResultError, match="0 of 5 frames"):
        sink.close()
