"""COCO panoptic files: the pictures' ids are the JSON's, also after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.kinds.panoptic.sink import PANOPTIC, PANOPTIC_FOLDER, PanopticResults
from edgewise.runtime.system.output_set import OutputSet
from edgewise.runtime.system.ownership import MARKER

SIZE = (48, 64)
LABELS = (ClassLabel(id=5, name="cat"), ClassLabel(id=90, name="sky", kind=ClassKind.STUFF))


def frame(index: int, name: str = "") -> Frame:
    return Frame(index, name or f"f{index}.jpg", np.zeros((*SIZE, 3), np.uint8), index / 10, index + 100)


def result(things: int = 2) -> Panoptic:
    segments = np.full(SIZE, things + 1)
    segments[:, :8] = 0
    for thing in range(things):
        segments[thing * 3 % 40 : thing * 3 % 40 + 3, 10 + thing // 14] = thing + 1
    return Panoptic.of_segments(segments, [0] * things + [1], np.linspace(0.9, 0.5, things + 1), LABELS)


def sink_in(folder: Path) -> PanopticResults:
    return PanopticResults(folder / PANOPTIC, folder / PANOPTIC_FOLDER, LABELS)


def assert_consistent(folder: Path, results: list[Panoptic]) -> dict:
    written = json.loads((folder / PANOPTIC).read_text())
    assert len(written["annotations"]) == len(written["images"]) == len(results)
    for annotation, image, expected in zip(written["annotations"], written["images"], results, strict=True):
        assert annotation["image_id"] == image["id"]
        assert (image["height"], image["width"]) == SIZE
        picture = cv2.imread(str(folder / PANOPTIC_FOLDER / annotation["file_name"])).astype(int)
        ids = picture[..., 2] + 256 * picture[..., 1] + 65536 * picture[..., 0]
        np.testing.assert_array_equal(ids, expected.segments)
        areas = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
        counted = dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True)), strict=True))
        counted.pop(0, None)
        assert areas == counted
    return written


def test_pictures_and_json_agree(tmp_path: Path) -> None:
    sink = sink_in(tmp_path)
    results = [result(), result(0), result(300)]
    for index, one in enumerate(results):
        sink.write(frame(index), one)
    sink.close()
    sink.close()
    written = assert_consistent(tmp_path, results)
    assert [image["file_name"] for image in written["images"]] == ["f0.jpg", "f1.jpg", "f2.jpg"]
    assert written["categories"] == [
        {"id": 5, "name": "cat", "supercategory": "thing", "isthing": 1},
        {"id": 90, "name": "sky", "supercategory": "stuff", "isthing": 0},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [PANOPTIC_FOLDER, PANOPTIC]


def test_no_frame_at_all_is_valid_too(tmp_path: Path) -> None:
    sink_in(tmp_path).close()
    assert_consistent(tmp_path, [])


def test_a_frame_without_segments_is_listed(tmp_path: Path) -> None:
    nothing = Panoptic.of_segments(np.zeros(SIZE, int), [], [], LABELS)
    sink = sink_in(tmp_path)
    sink.write(frame(0), nothing)
    sink.close()
    written = assert_consistent(tmp_path, [nothing])
    assert written["annotations"][0]["segments_info"] == []


def test_names_are_kept_apart(tmp_path: Path) -> None:
    sink = sink_in(tmp_path)
    for index, name in enumerate(("a.png", "a.jpg", "b.png")):
        sink.write(frame(index, name), result())
    sink.close()
    written = assert_consistent(tmp_path, [result()] * 3)
    names = [annotation["file_name"] for annotation in written["annotations"]]
    assert names == ["a.png", "a.jpg.png", "b.png"]


def test_an_interrupted_run_leaves_a_valid_part(tmp_path: Path) -> None:
    folder = OutputSet(tmp_path / "out", [PANOPTIC, PANOPTIC_FOLDER])
    sink = PanopticResults(folder.path(PANOPTIC), folder.path(PANOPTIC_FOLDER), LABELS)
    sink.write(frame(0), result())
    sink.close()
    names = {path.name for path in folder.publish(partial=True)}
    assert names == {"panoptic.partial.json", "panoptic.partial"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARKER, *names}
    assert len(json.loads((tmp_path / "out" / "panoptic.partial.json").read_text())["annotations"]) == 1
