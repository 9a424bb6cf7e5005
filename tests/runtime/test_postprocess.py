"""Outputs of fixed slots become instances; wrong outputs become errors that name them.

The reference for prototype masks is the paper's post-processing as described in its code's documentation:
boxes relative to the input are scaled to the picture, masks resized to the whole picture and thresholded.
"""

from __future__ import annotations

import cv2
import msgspec
import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel, Graph, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import PastedInstances, PrototypeInstances
from edgewise.runtime.contract.preprocessing import Letterbox, Stretch
from edgewise.runtime.decoding.decode import decode_result
from edgewise.runtime.frames.looks import Look, Looks
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.pixels.paste import paste_box_masks
from edgewise.runtime.results.result import is_settled
from edgewise.runtime.system.errors import ResultError

NETWORK = (110, 110)
SLOTS = 5
LABELS = (ClassLabel(id=3, name="car"), ClassLabel(id=8, name="van"))


def manifest(spec):
    return Manifest(
        writer="edgewise tests",
        name="slots",
        classes=LABELS,
        provenance=Provenance(definition="tests"),
        graphs={"main": Graph(inputs=(), outputs=())},
        preprocess=Stretch(size=NETWORK),
        postprocess=spec,
    )


def geometry(size=(200, 330), spec=None):
    return preprocess(spec or Stretch(size=NETWORK), np.zeros((*size, 3), np.uint8))[1]


def decode(manifest, outputs, geometry):
    look = Look(np.zeros((1, *geometry.network_size, 3), np.uint8), geometry)
    return decode_result(manifest, Looks(geometry.source_size, (look,)), [outputs])


def prototype_outputs(**changes):
    rng = np.random.default_rng(0)
    boxes = np.array(
        [[[10, 20, 60, 80], [50, 5, 100, 50], [-10, 30, 20, 130], [70, 70, 71, 75], [0, 0, 0, 0]]]
    )
    masks = np.zeros((1, SLOTS, 28, 28), np.float32)
    for slot, (x1, y1, x2, y2) in enumerate(np.clip(boxes[0] * 28 // 110, 0, 28).astype(int).tolist()):
        masks[0, slot, y1 : y2 + 1, x1 : x2 + 1] = rng.random((28, 28))[y1 : y2 + 1, x1 : x2 + 1]
    outputs = {
        "boxes": boxes.astype(np.float32),
        "scores": np.array([[0.9, 0.8, 0.5, 0.1, 0.0]], np.float32),
        "classes": np.array([[0, 1, 1, 0, 7]], np.int32),
        "masks": masks,
        "settled": np.array([1], np.int32),
    }
    return outputs | changes


PROTOTYPES = PrototypeInstances(settled="settled", score_threshold=0.05)


def test_boxes_scores_and_classes_of_prototype_instances():
    found = decode(manifest(PROTOTYPES), prototype_outputs(), geometry())
    np.testing.assert_array_equal(found.scores, np.float32([0.9, 0.8, 0.5, 0.1]))
    assert found.names == ("car", "van", "van", "car")
    expected = prototype_outputs()["boxes"][0, :4] * [3, 200 / 110, 3, 200 / 110]
    np.testing.assert_allclose(found.boxes, np.clip(expected, 0, [330, 200, 330, 200]), atol=1e-4)
    assert found.frame_size == (200, 330)
    assert found.display_threshold == PROTOTYPES.display_threshold


def test_masks_of_prototype_instances_are_the_resized_ones():
    outputs = prototype_outputs()
    found = decode(manifest(PROTOTYPES), outputs, geometry())
    for mask, dense in zip(outputs["masks"][0], found.dense_masks(), strict=False):
        whole = cv2.resize(mask, (330, 200), interpolation=cv2.INTER_LINEAR)
        sure = np.abs(whole - 0.5) > 1e-4
        np.testing.assert_array_equal(dense[sure], whole[sure] > 0.5)


def test_letterboxed_instances_leave_the_padding_out():
    spec = Letterbox(size=NETWORK)
    shape = geometry(size=(220, 440), spec=spec)
    masks = np.zeros((1, SLOTS, 110, 110), np.float32)
    masks[0, 0, 40:60, 20:50] = 1
    boxes = np.zeros((1, SLOTS, 4), np.float32)
    boxes[0, 0] = [20, 40, 50, 60]
    scores = np.zeros((1, SLOTS), np.float32)
    scores[0, 0] = 1
    outputs = prototype_outputs(boxes=boxes, masks=masks, scores=scores)
    found = decode(manifest(PROTOTYPES), outputs, shape)
    # 440 x 220 became 110 x 55 with 27 rows above: row 40 of the input is row 52 of the frame.
    np.testing.assert_allclose(found.boxes, [[80, 52, 200, 132]])
    expected = np.zeros((220, 440), bool)
    expected[52:132, 80:200] = True
    difference = expected ^ found.dense_masks()[0]
    assert difference[56:128, 84:196].sum() == 0
    assert difference.sum() < 40


def test_the_order_is_by_score_then_slot():
    scores = np.array([[0.2, 0.8, 0.5, 0.8, 0.05]], np.float32)
    classes = np.array([[0, 1, 1, 0, 0]], np.int32)
    boxes = np.tile(np.float32([10, 10, 20, 20]), (1, SLOTS, 1)) + np.arange(SLOTS, dtype=np.float32)[:, None]
    outputs = prototype_outputs(scores=scores, classes=classes, boxes=boxes)
    found = decode(manifest(PROTOTYPES), outputs, geometry())
    np.testing.assert_array_equal(found.scores, np.float32([0.8, 0.8, 0.5, 0.2]))
    np.testing.assert_allclose(found.boxes[:, 0], np.array([11, 13, 12, 10]) * 3, rtol=1e-6)


def test_a_score_equal_to_the_threshold_is_no_instance():
    scores = np.array([[0.5, 0.5, 0.25, 0, 0]], np.float32)
    spec = msgspec.structs.replace(PROTOTYPES, score_threshold=0.25)
    assert len(decode(manifest(spec), prototype_outputs(scores=scores), geometry())) == 2


def test_corners_are_put_in_order_and_boxes_outside_are_dropped():
    boxes = np.float32(
        [[[60, 80, 10, 20], [-50, 10, -1, 20], [10, 111, 50, 180], [30, 30, 30, 50], [0, 0, 1, 1]]]
    )
    found = decode(manifest(PROTOTYPES), prototype_outputs(boxes=boxes), geometry())
    np.testing.assert_allclose(found.boxes, [[30, 20 * 200 / 110, 180, 80 * 200 / 110]], rtol=1e-6)
    np.testing.assert_array_equal(found.scores, np.float32([0.9]))


def test_nothing_found():
    outputs = prototype_outputs(scores=np.zeros((1, SLOTS), np.float32))
    found = decode(manifest(PROTOTYPES), outputs, geometry())
    assert len(found) == 0
    assert found.records(1) == []
    assert (found.draw(np.zeros((200, 330, 3), np.uint8)) == 0).all()


def test_slots_below_the_threshold_may_hold_anything():
    outputs = prototype_outputs()
    outputs["boxes"][0, 4] = np.nan
    assert len(decode(manifest(PROTOTYPES), outputs, geometry())) == 4


def test_outputs_are_not_changed():
    outputs = prototype_outputs()
    before = {name: array.copy() for name, array in outputs.items()}
    for _ in range(2):
        decode(manifest(PROTOTYPES), outputs, geometry())
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, before[name])


def spoilt(name, change):
    outputs = prototype_outputs()
    outputs[name] = change(outputs[name])
    return outputs


def with_value(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("boxes", lambda a: a[0], "shape"),
        ("boxes", lambda a: a[:, :4], "shape"),
        ("boxes", lambda a: a.astype(np.float64), "float64"),
        ("boxes", with_value((0, 1, 2), np.nan), "not finite"),
        ("boxes", with_value((0, 1, 2), np.inf), "not finite"),
        ("scores", lambda a: np.concatenate([a, a]), "shape"),
        ("scores", lambda a: a[..., None], "shape"),
        ("scores", lambda a: a.astype(np.float16), "float16"),
        ("scores", with_value((0, 4), np.nan), "not a number"),
        ("scores", with_value((0, 0), 3.5), "outside 0..1"),
        ("scores", with_value((0, 0), -2), "outside 0..1"),
        ("classes", lambda a: a[:, :2], "shape"),
        ("classes", lambda a: a.astype(np.float32), "float32"),
        ("classes", with_value((0, 0), 2), "classes"),
        ("classes", with_value((0, 0), -1), "classes"),
        ("masks", lambda a: a[0], "shape"),
        ("masks", lambda a: a[:, :3], "shape"),
        ("masks", lambda a: a.astype(np.float16), "float16"),
        ("settled", lambda a: a.astype(np.float32), "float32"),
        ("settled", lambda a: np.zeros((1, 1), np.int32), "shape"),
    ],
)
def test_wrong_outputs_are_named(name, change, says):
    with pytest.raises(ResultError, match=says) as caught:
        decode(manifest(PROTOTYPES), spoilt(name, change), geometry())
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 17.0, -4.0])
def test_masks_that_are_no_probabilities_are_refused(value):
    outputs = spoilt("masks", with_value((0, 1, 3, 3), value))
    with pytest.raises(ResultError, match="probabilities") as caught:
        decode(manifest(PROTOTYPES), outputs, geometry())
    assert "'masks'" in str(caught.value)


@pytest.mark.parametrize("name", ["boxes", "scores", "classes", "masks", "settled"])
def test_missing_outputs_are_named(name):
    outputs = prototype_outputs()
    del outputs[name]
    with pytest.raises(ResultError, match="gave no output") as caught:
        decode(manifest(PROTOTYPES), outputs, geometry())
    assert repr(name) in str(caught.value)


def test_an_unsettled_frame_gives_its_result_and_says_so():
    for settled in (1, 0):
        found = decode(
            manifest(PROTOTYPES), prototype_outputs(settled=np.array([settled], np.int32)), geometry()
        )
        assert len(found) == 4
        assert found.settled == found.above(0.6).settled == is_settled(found) == bool(settled)


def test_without_a_settled_output_none_is_asked_for():
    outputs = prototype_outputs()
    del outputs["settled"]
    spec = msgspec.structs.replace(PROTOTYPES, settled=None)
    assert len(decode(manifest(spec), outputs, geometry())) == 4


def test_pasted_instances():
    rng = np.random.default_rng(1)
    outputs = prototype_outputs(masks=rng.random((1, SLOTS, 14, 14), dtype=np.float32))
    found = decode(manifest(PastedInstances(score_threshold=0.05)), outputs, geometry())
    whole_boxes = geometry().to_source(outputs["boxes"][0, :4].reshape(-1, 2, 2)).reshape(-1, 4)
    expected = paste_box_masks(outputs["masks"][0, :4], whole_boxes, (200, 330), 0.5)
    np.testing.assert_array_equal(found.dense_masks(), expected.dense())
    assert found.boxes[2, 0] == 0
