"""The contract: hand-written manifests of models yet to come, strict reading, and a page that stays true."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path

import msgspec
import pytest

from edgewise.runtime.contract import manifest as manifest_module
from edgewise.runtime.contract import postprocessing, preprocessing, schedules
from edgewise.runtime.contract.check import check, referenced_files
from edgewise.runtime.contract.encoding import decode, encode
from edgewise.runtime.contract.manifest import Manifest, Precision
from edgewise.runtime.contract.parts import Part
from edgewise.runtime.contract.postprocessing import (
    HeatmapKeypoints,
    PanopticFusion,
    PrototypeInstances,
)
from edgewise.runtime.contract.preprocessing import AffineCrop, Letterbox, ShortestEdge
from edgewise.runtime.contract.schedules import KeyEveryN
from edgewise.runtime.system.errors import ManifestError

FOLDER = Path(__file__).parent / "manifests"
PAGE = Path(__file__).parents[2] / "docs" / "manifest.md"
HAND_WRITTEN = sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name) -> Manifest:
    return decode((FOLDER / f"{name}.json").read_bytes())


def plain(name="video_two_graphs"):
    return json.loads((FOLDER / f"{name}.json").read_bytes())


def reread(document) -> Manifest:
    return decode(json.dumps(document).encode())


def test_the_four_models_are_there():
    assert HAND_WRITTEN == ["keypoints", "letterbox_instances", "panoptic", "video_two_graphs"]


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_written_and_read_again_it_is_the_same(name):
    first = read(name)
    assert decode(encode(first)) == first
    assert encode(decode(encode(first))) == encode(first)


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_nothing_of_the_hand_written_text_is_lost(name):
    """Every value of the text stands in what is written again, at the same place."""

    def check_within(part, whole, place):
        if isinstance(part, dict):
            for key, value in part.items():
                check_within(value, whole[key], f"{place}.{key}")
        elif isinstance(part, list):
            assert len(part) == len(whole), place
            for index, value in enumerate(part):
                check_within(value, whole[index], f"{place}[{index}]")
        else:
            assert part == whole, place

    check_within(plain(name), json.loads(encode(read(name))), name)


def test_a_video_model_of_two_graphs():
    video = read("video_two_graphs")
    assert isinstance(video.schedule, KeyEveryN)
    assert (video.schedule.key, video.schedule.nonkey, video.schedule.n) == ("key", "nonkey", 5)
    assert [state.source for state in video.state] == ["key.c3", "key.p4", "key.p5"]
    assert isinstance(video.postprocess, PrototypeInstances)
    assert len(referenced_files(video)) == 5
    assert video.graphs["key"].probes[0].value_range == (-1, 1)


def test_a_panoptic_model():
    panoptic = read("panoptic")
    assert panoptic.task == "panoptic"
    assert [label.kind.value for label in panoptic.classes] == ["stuff", "stuff", "thing", "thing"]
    assert isinstance(panoptic.preprocess, ShortestEdge)
    assert isinstance(panoptic.postprocess, PanopticFusion)
    assert set(panoptic.postprocess.outputs) == {
        "boxes",
        "scores",
        "classes",
        "masks",
        "semantic",
        "settled",
    }
    assert panoptic.budget(Precision.INT8).similarity == 0.9
    with pytest.raises(ManifestError, match="no budget for fp16"):
        panoptic.budget(Precision.FP16)


def test_a_keypoint_model():
    keypoints = read("keypoints")
    assert keypoints.keypoints is not None
    assert keypoints.keypoints.flip_pairs[0] == (0, 5)
    assert isinstance(keypoints.preprocess, AffineCrop)
    assert isinstance(keypoints.postprocess, HeatmapKeypoints)
    assert keypoints.postprocess.flip_test


def test_a_letterbox_model():
    model = read("letterbox_instances")
    assert isinstance(model.preprocess, Letterbox)
    assert model.preprocess.pad_value == (114, 114, 114)
    assert model.postprocess.outputs == ("boxes", "scores", "classes", "crops")
    assert model.task == "instances"


# ---------------------------------------------------------------- strict reading


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"PK\x03\x04"])
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(ManifestError):
        decode(data)


@pytest.mark.parametrize("version", [0, 1, 99])
def test_another_format_names_its_writer(version):
    newer = {"format": version, "writer": "edgewise 9.1", "something": "new"}
    with pytest.raises(ManifestError, match=rf"format {version}, written by edgewise 9\.1"):
        reread(newer)


def test_a_newer_format_without_a_writer_is_refused_too():
    with pytest.raises(ManifestError, match="unnamed writer"):
        reread({"format": 3})


def changed(place, value, name="video_two_graphs"):
    document = plain(name)
    target = document
    *path, last = place
    for step in path:
        target = target[step]
    if value is DELETED:
        del target[last]
    else:
        target[last] = value
    return document


DELETED = object()


@pytest.mark.parametrize(
    "place",
    [
        ("colour",),
        ("provenance", "author"),
        ("provenance", "steps", 0, "when"),
        ("classes", 0, "colour"),
        ("graphs", "key", "opset"),
        ("graphs", "key", "inputs", 0, "layout"),
        ("graphs", "key", "files", 0, "sha256"),
        ("state", 0, "reset"),
        ("schedule", "offset"),
        ("preprocess", "mean"),
        ("postprocess", "nms"),
        ("postprocess", "tracker"),
        ("task",),
        ("files", 0, "mode"),
    ],
)
def test_unknown_fields_are_refused_with_the_writer(place):
    with pytest.raises(ManifestError, match="unknown field") as caught:
        reread(changed(place, 1))
    assert "a person" in str(caught.value)
    assert place[-1] in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), "1"),
        (("writer",), DELETED),
        (("writer",), 7),
        (("name",), None),
        (("schedule", "n"), 1),
        (("postprocess",), "prototype-instances"),
        (("postprocess", "kind"), DELETED),
        (("classes", 0, "id"), "1"),
        (("classes", 0, "id"), 1.5),
        (("classes", 0, "kind"), "object"),
        (("provenance",), DELETED),
        (("provenance", "checkpoint_sha256"), "1234"),
        (("provenance", "checkpoint_sha256"), "G" * 64),
        (("graphs",), []),
        (("graphs", "key", "inputs", 0, "dtype"), "double"),
        (("graphs", "key", "inputs", 0, "shape"), [1, -1, 550, 3]),
        (("graphs", "key", "inputs", 0, "shape"), [0]),
        (("graphs", "key", "inputs", 0, "shape"), ["N", 3]),
        (("graphs", "key", "inputs", 0, "value_range"), [0]),
        (("graphs", "key", "inputs", 0, "value_range"), [0, None]),
        (("graphs", "key", "files", 0, "target"), "openvino"),
        (("graphs", "key", "files", 0, "precision"), "fp8"),
        (("schedule", "kind"), "sometimes"),
        (("schedule", "kind"), DELETED),
        (("schedule", "n"), 0),
        (("schedule", "nonkey"), DELETED),
        (("preprocess", "size"), [550]),
        (("preprocess", "size"), [550, 0]),
        (("preprocess", "size"), [550, 550.5]),
        (("preprocess", "colour"), "BGR"),
        (("preprocess", "kind"), "letter-box"),
        (("postprocess", "score_threshold"), 1.5),
        (("postprocess", "score_threshold"), -0.1),
        (("postprocess", "score_threshold"), True),
        (("postprocess", "mask_rule"), "nearest"),
        (("preprocess", "size"), [1 << 15, 8]),
        (("graphs", "key", "inputs", 0, "shape"), [1 << 31]),
        (("graphs", "key", "inputs", 0, "shape"), [1 << 16, 1 << 16]),
        (("classes", 0, "id"), 1 << 60),
        (("state", 0, "spec", "dtype"), "int8"),
        (("files", 0, "size"), -1),
        (("files", 0, "sha256"), "A" * 64),
    ],
)
def test_wrong_values_are_refused(place, value):
    with pytest.raises(ManifestError):
        reread(changed(place, value))


@pytest.mark.parametrize(
    "kind", ["boxes", "faces", "dense-surface", "image", "heatmap", 7, ["boxes"], {"boxes": 1}]
)
def test_a_kind_that_nothing_implements_is_refused_by_name(kind):
    with pytest.raises(
        ManifestError, match=f"of the kind {re.escape(repr(kind))}; known: .*prototype-instances"
    ) as caught:
        reread(changed(("postprocess",), {"kind": kind}))
    assert "update" not in str(caught.value)


def test_numbers_are_finite():
    text = json.dumps(changed(("postprocess", "score_threshold"), float("nan")))
    assert "NaN" in text
    with pytest.raises(ManifestError):
        decode(text.encode())
    with pytest.raises(ManifestError):
        decode(json.dumps(changed(("postprocess", "score_threshold"), float("inf"))).encode())
    video = read("video_two_graphs")
    spoilt = msgspec.structs.replace(
        video, postprocess=msgspec.structs.replace(video.postprocess, score_threshold=float("nan"))
    )
    with pytest.raises(ManifestError):
        decode(encode(spoilt))


# ---------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("schedule", "key"), "keyframe", "'keyframe', which is not declared"),
        (("schedule", "nonkey"), "main", "'main', which is not declared"),
        (("schedule",), {"kind": "every-frame"}, "'main', which is not declared"),
        (("schedule",), {"kind": "key-on-scene-change", "key": "key", "nonkey": "x", "threshold": 9}, "'x'"),
        (("state", 0, "source"), "key.c9", "no graph's output"),
        (("state", 0, "source"), "c3", "no graph's output"),
        (("state", 0, "sinks"), ["nonkey.c3"], "no graph's input"),
        (("state", 0, "spec", "dtype"), "float32", "differ in dtype or shape"),
        (("state", 0, "spec", "shape"), [1, 512, 69, 68], "differ in dtype or shape"),
        (("postprocess", "masks"), "mask", "reads the output 'mask'"),
        (("postprocess", "settled"), "settled", "reads the output 'settled'"),
        (("graphs", "nonkey", "outputs", 3, "name"), "mask", "'masks', which graph 'nonkey' does not"),
        (("graphs", "nonkey", "outputs", 1, "shape"), [1, 99], "'scores' of graph 'nonkey' differs"),
        (("schedule",), {"kind": "every-frame", "graph": "key"}, "'nonkey' is declared, and the schedule"),
        (("state", 1), DELETED, "takes 2 inputs besides state"),
        (("preprocess",), {"kind": "affine-crop", "size": [550, 550]}, "nothing here does for crops"),
        (("postprocess", "mask_rule"), "paste-aligned", "not by 'paste-aligned'"),
        (("graphs",), {}, "no graph"),
        (("graphs", "key", "outputs", 0, "name"), "image", "'image' twice"),
        (("graphs", "key", "probes", 0, "name"), "scores", "'scores' twice"),
        (("graphs", "key", "canonical"), "models/other.onnx", "used but not listed"),
        (("graphs", "key", "files", 0, "path"), "models/other.onnx", "used but not listed"),
        (("files", 1, "path"), "models/key.onnx", "listed twice"),
        (("classes", 1, "id"), 1, "share an id"),
    ],
)
def test_dangling_references_are_refused(place, value, says):
    with pytest.raises(ManifestError) as caught:
        reread(changed(place, value))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "models/../../x", "..", "C:/x", "models\\x.onnx", "file:x"]
)
def test_paths_stay_in_the_bundle(path):
    document = plain()
    document["files"].append({"path": path, "size": 1, "sha256": "0" * 64})
    with pytest.raises(ManifestError, match="leaves the bundle folder"):
        reread(document)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("keypoints", "sigmas"), [0.1], "1 keypoint sigmas for 6 names"),
        (("keypoints", "flip_pairs"), [[0, 6]], "outside the 6 names"),
        (("keypoints", "limbs"), [[-1, 2]], "outside the 6 names"),
        (("keypoints",), DELETED, "names no keypoints"),
        (("preprocess",), {"kind": "stretch", "size": [256, 256]}, "look at crops have a flip test"),
    ],
)
def test_keypoints_refer_to_their_names(place, value, says):
    with pytest.raises(ManifestError) as caught:
        reread(changed(place, value, "keypoints"))
    assert says in str(caught.value)


def test_goldens_and_calibration_must_be_listed():
    with pytest.raises(ManifestError, match=r"goldens/000\.npz"):
        reread(changed(("goldens", 0, "frames", 0, "tensors"), "goldens/000.npz.bak", "letterbox_instances"))
    document = plain("letterbox_instances")
    document["calibration"] = {
        "method": "entropy",
        "tables": {"main": "calibration/main.json"},
        "sample_count": 1,
        "seed": 0,
        "samples_sha256": "0" * 64,
        "preprocess_sha256": "0" * 64,
    }
    with pytest.raises(ManifestError, match=r"calibration/main\.json"):
        reread(document)


def test_what_does_not_hold_together_is_not_written():
    video = read("video_two_graphs")
    broken = msgspec.structs.replace(video, state=video.state, graphs={"key": video.graphs["key"]})
    with pytest.raises(ManifestError):
        encode(broken)
    with pytest.raises(ManifestError):
        check(broken)


def test_what_could_not_be_read_again_is_not_written():
    manifest = decode((FOLDER / "letterbox_instances.json").read_bytes())
    state = manifest_module.StateTensor(
        name="broken",
        spec=manifest.graphs[next(iter(manifest.graphs))].outputs[0],
        source="",
        sinks=(),
        initial_value=float("nan"),
    )
    graph = next(iter(manifest.graphs))
    broken = msgspec.structs.replace(
        manifest, state=(msgspec.structs.replace(state, source=f"{graph}.{state.spec.name}"),)
    )
    with pytest.raises(ManifestError, match="initial_value"):
        encode(broken)


def test_a_precision_has_one_budget():
    example = decode((FOLDER / "letterbox_instances.json").read_bytes())
    budget = manifest_module.Budget(
        precision=Precision.FP16,
        tensor_relative_error=0.01,
        matched_fraction=1.0,
        similarity=1.0,
        score_difference=0.0,
        metric_drop=0.0,
    )
    with pytest.raises(ManifestError, match="two budgets"):
        encode(msgspec.structs.replace(example, budgets=(budget, budget)))


def test_parts_cannot_be_changed():
    video = read("video_two_graphs")
    for part in (video, video.graphs["key"], video.preprocess, video.postprocess, video.classes[0]):
        with pytest.raises(AttributeError):
            part.name = "other"  # pyright: ignore


# ---------------------------------------------------------------- the page


CONTRACT = (manifest_module, schedules, preprocessing, postprocessing)
BASES = {Part, preprocessing.Preprocessing, postprocessing.ResultKind}


def structs():
    found = {
        value
        for module in CONTRACT
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and not name.startswith("_")
    }
    return sorted(found - BASES, key=lambda struct: struct.__name__)


def sections():
    parts = re.split(r"^### (\w+)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_pages_example_is_a_manifest():
    (example,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    shown = decode(example.encode())
    assert decode(encode(shown)) == shown
    # A whole example shows every part of a manifest.
    assert set(json.loads(example)) == set(Manifest.__struct_fields__) - {"keypoints"}


@pytest.mark.parametrize("struct", structs(), ids=lambda struct: struct.__name__)
def test_the_page_describes_every_part_and_field(struct):
    section = sections()[struct.__name__]
    body = section.split("\n## ")[0]
    missing = [field for field in struct.__struct_fields__ if f"`{field}`" not in body]
    assert not missing
    if struct.__struct_config__.tag is not None:
        assert f'`"kind": "{struct.__struct_config__.tag}"`' in body


def test_the_page_describes_nothing_else():
    assert set(sections()) == {struct.__name__ for struct in structs()}
    by_name = {struct.__name__: struct for struct in structs()}
    for name, section in sections().items():
        rows = re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], flags=re.MULTILINE)
        assert set(rows) <= set(by_name[name].__struct_fields__), name


def test_the_page_names_every_enumerated_value():
    text = PAGE.read_text()
    enums = [
        value
        for module in CONTRACT
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, enum.Enum)
    ]
    assert len(enums) > 8
    missing = [member.value for kind in enums for member in kind if f"`{member.value}`" not in text]
    assert not missing
