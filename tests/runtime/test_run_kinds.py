"""`run`, `bench`, `inspect` and `selftest` on bundles of keypoints and of panoptic segments."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper
from pycocotools.coco import COCO

from edgewise.runtime.contract.manifest import (
    ClassKind,
    ClassLabel,
    DType,
    Graph,
    GraphFile,
    Manifest,
    Precision,
    Provenance,
    Target,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import PanopticSegments
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.system.ownership import MARKER

from .conftest import _constant, _serialise, bright_frame, write_files
from .pose_bundle import BOXES, PEOPLE, build_pose_bundle, person_frame
from .test_cli import Verb, edgewise, only_panel

__all__ = ["edgewise"]

FLIP_TEST = "postprocess.flip_test=true"
TO_THE_RIGHT = np.array([20, 0])


@pytest.fixture
def pose_folder(tmp_path: Path) -> Path:
    return build_pose_bundle(tmp_path / "pose")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two people, nobody, two people further to the right."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, points in enumerate((PEOPLE, PEOPLE[:0], PEOPLE + TO_THE_RIGHT)):
        cv2.imwrite(str(folder / f"p{index}.png"), person_frame(points))
    return folder


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    images = [{"id": 10 + n, "file_name": f"images/p{n}.png", "height": 160, "width": 240} for n in range(3)]
    people = [
        {
            "id": 2 * image + person + 1,
            "image_id": 10 + image,
            "category_id": 1,
            "bbox": [x1 + shift, y1, x2 - x1, y2 - y1],
        }
        for image, shift in ((0, 0), (2, 20))
        for person, (x1, y1, x2, y2) in enumerate(BOXES.tolist())
    ]
    categories = [{"id": 1, "name": "person"}]
    file = tmp_path / "keypoints.json"
    file.write_text(json.dumps({"images": images, "annotations": people, "categories": categories}))
    return file


def test_one_person_in_the_whole_frame(edgewise: Verb, pose_folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), person_frame(PEOPLE[:1]))
    status, out, _ = edgewise("run", pose_folder, tmp_path / "one.png", "--threshold", 0.1)
    assert status == 0
    assert "people of score 0.1 and more" in out
    assert "of 3" in out
    assert "0.0, 0.0, 240.0, 160.0" in out


def test_boxes_from_a_file(
    edgewise: Verb, pose_folder: Path, pictures: Path, annotations: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, text, _ = edgewise("run", pose_folder, pictures, "--boxes", annotations, "-o", out)
    assert status == 0
    assert "3 frames" in text
    assert "people" in text
    results = json.loads((out / "results.json").read_text())
    assert [record["image_id"] for record in results] == [10, 10, 12, 12]
    for record, truth in zip(results, [*PEOPLE, *(PEOPLE + TO_THE_RIGHT)], strict=True):
        points = np.array(record["keypoints"]).reshape(3, 3)
        assert np.abs(points[:, :2] + 0.5 - truth).max() < 6
        assert (points[:, 2] > 0.7).all()
    # COCO's tools read the results beside the images that the run lists.
    images = json.loads((out / "images.json").read_text())
    truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    loaded = COCO(str(tmp_path / "truth.json")).loadRes(str(out / "results.json"))
    assert [len(loaded.getAnnIds(imgIds=[image])) for image in (10, 11, 12)] == [2, 0, 2]
    nobody = cv2.imread(str(out / "overlay" / "p1.jpg"))
    assert nobody is not None
    assert nobody.max() < 10


def _listing(folder: Path, *images: tuple[int, str]) -> Path:
    file = folder / "listing.json"
    file.write_text(json.dumps({"images": [{"id": number, "file_name": name} for number, name in images]}))
    return file


def _ids(out: Path) -> dict[str, int]:
    return {image["file_name"]: image["id"] for image in json.loads((out / "images.json").read_text())}


def test_ids_of_annotations(edgewise: Verb, pose_folder: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "p3.png").write_bytes(b"cut off")
    listing = _listing(tmp_path, (7, "sub/p1.png"), (5, "p0.png"), (6, "p2.png"), (1, "p3.png"), (9, "x.png"))
    ids = {"p0.png": 5, "p1.png": 7, "p2.png": 6, "p3.png": 1}
    first, second = tmp_path / "first", tmp_path / "second"
    status, _, error = edgewise("run", pose_folder, pictures, "--annotations", listing, "-o", first)
    assert (status, error.strip()) == (0, "")
    assert _ids(first) == ids
    assert {record["image_id"] for record in json.loads((first / "results.json").read_text())} <= {5, 6, 7}
    # The images.json of a run says them too, and wins over those of a file of boxes.
    again = first / "images.json"
    edgewise("run", pose_folder, pictures, "--annotations", again, "--boxes", listing, "-o", second)
    assert _ids(first) == ids


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([(1, "p0.png")], "does not know 2 of 3 images, 'p1.png' first"),
        ([(1, "p0.png"), (1, "p1.png"), (2, "p2.png")], "the same number: 1"),
        ([(1, "p0.png"), (2, "a/p1.png"), (3, "b/p1.png")], "the same file name: p1.png"),
        ([(1 << 60, "p0.png")], "lists no images"),
    ],
)
def test_annotations_that_do_not_tell_the_images_apart(
    edgewise: Verb,
    pose_folder: Path,
    pictures: Path,
    tmp_path: Path,
    listed: list[tuple[int, str]],
    words: str,
) -> None:
    listing = _listing(tmp_path, *listed)
    status, _, error = edgewise("run", pose_folder, pictures, "--annotations", listing, "-o", tmp_path / "o")
    assert status == 1
    assert words in " ".join(error.split())
    assert not (tmp_path / "o").exists()


def test_results_are_boxes_of_the_next_run(
    edgewise: Verb, pose_folder: Path, pictures: Path, annotations: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ("run", pose_folder, pictures, "--no-overlay")
    assert edgewise(*arguments, "--boxes", annotations, "-o", first)[0] == 0
    assert edgewise(*arguments, "--boxes", first / "results.json", "-o", second)[0] == 0
    before, after = (json.loads((folder / "results.json").read_text()) for folder in (first, second))
    assert [one["bbox"] for one in before] == [one["bbox"] for one in after]
    assert [one["keypoints"] for one in before] == [one["keypoints"] for one in after]
    status, text, _ = edgewise(
        *arguments, "--boxes", annotations, "--threshold", "0.96", "-o", tmp_path / "t"
    )
    assert status == 0
    kept = json.loads((tmp_path / "t" / "results.json").read_text())
    assert [one["score"] for one in kept] == [one["score"] for one in before if one["score"] >= 0.96]
    assert 0 < len(kept) < len(before)
    assert "people" in text


def test_boxes_from_a_detector(
    edgewise: Verb, pose_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "bright.png"), bright_frame(200))
    arguments = ("run", pose_folder, tmp_path / "bright.png", "--boxes", bundle_folder)
    status, out, _ = edgewise(*arguments, "--boxes-class", "bright")
    assert status == 0
    assert "8.0, 8.0, 48.0, 56.0" in out
    status, out, _ = edgewise(*arguments, "--boxes-class", "dim", "--boxes-threshold", "0.9")
    assert status == 0
    assert "person" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "{pose}", "{image}", "--boxes", "{detector}"), "knows no class 'person'"),
        (("run", "{pose}", "{image}", "--boxes", "gone.json"), "cannot be read"),
        (("run", "{pose}", "{image}", "--boxes", "{image}"), "neither a COCO annotation file"),
        (("run", "{pose}", "{image}", "--boxes", "{annotations}"), "not know 1 of 1 images, 'other.png'"),
        (("run", "{pose}", "{image}", "--boxes", "{pose}"), "looks at crops itself"),
        (
            ("run", "{pose}", "{image}", "--boxes", "{detector}", "--boxes-precision", "int8"),
            "no int8 model",
        ),
        (("run", "{detector}", "{image}", "--boxes", "{annotations}"), "looks at whole frames"),
        (("run", "{detector}", "{image}", "--set", FLIP_TEST), "'postprocess.flip_test' cannot be set"),
        (("bench", "{detector}", "--set", FLIP_TEST), "'postprocess.flip_test' cannot be set"),
        (("run", "{pose}", "{image}", "--set", "postprocess.heatmaps=x"), "cannot be set"),
        (("run", "{pose}", "{image}", "--set", "postprocess.flip_test=maybe"), "cannot be 'maybe'"),
        (("run", "{pose}", "{image}", "--set", "postprocess.flip_test"), "names no value"),
        (("bench", "{pose}", "--set", "postprocess.score_threshold=2"), "cannot be '2'"),
    ],
)
def test_wrong_boxes_end_in_one_panel(
    edgewise: Verb,
    pose_folder: Path,
    bundle_folder: Path,
    annotations: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    cv2.imwrite(str(tmp_path / "other.png"), bright_frame(200))
    places = {
        "{pose}": pose_folder,
        "{detector}": bundle_folder,
        "{annotations}": annotations,
        "{image}": tmp_path / "other.png",
    }
    out = tmp_path / "out"
    filled = [str(places.get(text, text)) for text in arguments]
    status, _, error = edgewise(*filled, *(["-o", out] if arguments[0] == "run" else []))
    assert status == 1
    assert message in only_panel(error)
    assert not out.exists()


def test_bench_looks_at_the_boxes_of_the_golden(edgewise: Verb, pose_folder: Path) -> None:
    arguments = ("bench", pose_folder, "--runs", 3, "--warm-up", 1, "--threads", 1)
    status, out, _ = edgewise(*arguments, "--set", FLIP_TEST)
    assert status == 0
    assert "240x160 with 2 boxes" in out
    assert "postprocess" in out


def test_bench_times_frames_that_share_a_launch(edgewise: Verb, tmp_path: Path) -> None:
    """Two people a frame: four frames share eight looks, two with the flip test, none share two."""
    for batch, settings, frames in ((8, (), 4), (8, ("--set", FLIP_TEST), 2), (2, (), 0)):
        folder = build_pose_bundle(tmp_path / f"{batch}-{len(settings)}.bundle", batch=batch)
        status, out, _ = edgewise("bench", folder, "--runs", 2, "--warm-up", 1, "--threads", 1, *settings)
        assert status == 0
        assert (f"inference, {frames} frames a launch" in out) == bool(frames)
        assert ("a launch" in out) == bool(frames)
        assert f"graph main, 1 to {batch} looks a launch" in edgewise("inspect", folder)[1]


def test_run_shares_launches_and_writes_the_same(edgewise: Verb, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(7):
        cv2.imwrite(str(frames / f"{number}.png"), np.roll(person_frame(PEOPLE), 4 * number, axis=1))
    written = []
    for batch in (1, 3):
        folder = build_pose_bundle(tmp_path / f"{batch}.bundle", batch=batch)
        output = tmp_path / f"out-{batch}"
        assert edgewise("run", folder, frames, "-o", output, "--no-overlay", "--threads", 1)[0] == 0
        written.append((output / "results.json").read_bytes())
    assert written[0] == written[1]
    assert len(json.loads(written[0])) == 7


def test_inspect_and_selftest(edgewise: Verb, pose_folder: Path) -> None:
    status, out, _ = edgewise("inspect", pose_folder)
    assert status == 0
    for text in ("3 keypoints", "nose, left_hand, right_hand", "heatmap-keypoints", "affine-crop"):
        assert text in out
    status, out, _ = edgewise("selftest", pose_folder)
    assert status == 0, out
    assert "FAIL" not in out


# ---------------------------------------------------------------- panoptic

SCENE = (16, 24)
THING_AND_STUFF = (ClassLabel(id=5, name="lamp"), ClassLabel(id=30, name="night", kind=ClassKind.STUFF))


def panoptic_model(*, settled: bool = True) -> bytes:
    """Bright pixels belong to the only slot, dark ones to the only stuff class; the semantic head agrees."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "channel_axis"], ["grey"], keepdims=0),
        helper.make_node("Greater", ["grey", "limit"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["segments"], to=TensorProto.INT32),
        helper.make_node("Sub", ["one", "segments"], ["semantic"]),
        helper.make_node("Identity", ["fixed_scores"], ["scores"]),
        helper.make_node("Identity", ["fixed_classes"], ["classes"]),
        helper.make_node("Identity", ["fixed_settled"], ["settled"]),
    ]
    constants = [
        _constant("fixed_settled", [settled], np.int32),
        _constant("channel_axis", [3], np.int64),
        _constant("limit", 100.0, np.float32),
        _constant("one", 1, np.int32),
        _constant("fixed_scores", [[0.75]], np.float32),
        _constant("fixed_classes", [[0]], np.int32),
    ]
    kinds = {"scores": TensorProto.FLOAT, "classes": TensorProto.INT32}
    outputs = [helper.make_tensor_value_info(name, kind, [1, 1]) for name, kind in kinds.items()]
    outputs += [
        helper.make_tensor_value_info(name, TensorProto.INT32, [1, *SCENE])
        for name in ("segments", "semantic")
    ]
    outputs.append(helper.make_tensor_value_info("settled", TensorProto.INT32, [1]))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SCENE, 3])
    return _serialise(nodes, [image], outputs, constants)


@pytest.fixture
def panoptic_folder(tmp_path: Path) -> Path:
    return panoptic_bundle(tmp_path, panoptic_model())


def panoptic_bundle(tmp_path: Path, model: bytes) -> Path:
    outputs = (
        TensorSpec(name="scores", dtype=DType.FLOAT32, shape=(1, 1)),
        TensorSpec(name="classes", dtype=DType.INT32, shape=(1, 1)),
        TensorSpec(name="segments", dtype=DType.INT32, shape=(1, *SCENE)),
        TensorSpec(name="semantic", dtype=DType.INT32, shape=(1, *SCENE)),
        TensorSpec(name="settled", dtype=DType.INT32, shape=(1,)),
    )
    file = GraphFile(target=Target.ONNXRUNTIME, precision=Precision.FP32, path="models/fp32.onnx")
    image = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, *SCENE, 3))
    manifest = Manifest(
        writer="edgewise tests",
        name="lamps",
        classes=THING_AND_STUFF,
        provenance=Provenance(definition="tests.lamps"),
        graphs={"main": Graph(inputs=(image,), outputs=outputs, files=(file,))},
        preprocess=Stretch(size=SCENE),
        postprocess=PanopticSegments(settled="settled", stuff_area_limit=0),
    )
    return write_files(tmp_path / "lamps", manifest, {file.path: model})


def lamp(tmp_path: Path) -> Path:
    """A bright rectangle in the dark, 12 x 8 pixels of a 48 x 32 picture."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[8:16, 24:36] = 250
    cv2.imwrite(str(tmp_path / "lamp.png"), picture)
    return tmp_path / "lamp.png"


def test_segments_of_one_picture(edgewise: Verb, panoptic_folder: Path, tmp_path: Path) -> None:
    status, out, _ = edgewise("run", panoptic_folder, lamp(tmp_path))
    assert status == 0
    assert "segments of score 0.5 and more" in out
    assert "24.0, 8.0, 36.0, 16.0" in out
    assert str(32 * 48 - 12 * 8) in out
    # What scores less than the threshold is not listed; stuff always is.
    status, out, _ = edgewise("run", panoptic_folder, lamp(tmp_path), "--threshold", 0.9)
    assert "lamp" not in out
    assert "night" in out


def test_run_writes_coco_panoptic(edgewise: Verb, panoptic_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _, _ = edgewise("run", panoptic_folder, lamp(tmp_path), "-o", out)
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        MARKER,
        "images.json",
        "overlay",
        "panoptic",
        "panoptic.json",
        "results.json",
    ]
    content = json.loads((out / "panoptic.json").read_text())
    (annotation,) = content["annotations"]
    colours = cv2.imread(str(out / "panoptic" / annotation["file_name"])).astype(int)
    ids = colours[..., 2] + 256 * colours[..., 1] + 65536 * colours[..., 0]
    found = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
    assert found[int(ids[10, 30])] == 5
    assert found[int(ids[0, 0])] == 30
    assert (ids == ids[10, 30]).sum() == 12 * 8
    records = json.loads((out / "results.json").read_text())
    assert [record["category_id"] for record in records] == [5, 30]
    assert edgewise("run", panoptic_folder, lamp(tmp_path), "-o", tmp_path / "no", "--no-coco")[0] == 0
    assert sorted(path.name for path in (tmp_path / "no").iterdir()) == [MARKER, "overlay"]


def test_frames_that_needed_more_suppression_rounds_are_counted_and_marked(
    edgewise: Verb, tmp_path: Path
) -> None:
    folder = panoptic_bundle(tmp_path, panoptic_model(settled=False))
    status, text, _ = edgewise("run", folder, lamp(tmp_path), "-o", tmp_path / "out")
    assert status == 0
    assert "1 of 1 frames needed more suppression rounds" in text
    assert "lamp" in text
    (image,) = json.loads((tmp_path / "out" / "images.json").read_text())
    assert image["settled"] is False


def test_segments_are_boxes_for_people(
    edgewise: Verb, pose_folder: Path, panoptic_folder: Path, tmp_path: Path
) -> None:
    arguments = ("--boxes", panoptic_folder, "--boxes-class", "lamp", "--threshold", 0)
    status, out, _ = edgewise("run", pose_folder, lamp(tmp_path), *arguments)
    assert status == 0
    assert "24.0, 8.0, 36.0, 16.0" in out
