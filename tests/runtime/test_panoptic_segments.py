"""A panoptic head's maps become segments; the reference counts pixels of the resampled frame one by one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.contract.postprocessing import PanopticSegments
from edgewise.runtime.contract.preprocessing import Letterbox, Stretch
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.pixels.geometry import Geometry, scaling
from edgewise.runtime.results.result import is_settled
from edgewise.runtime.system.errors import ResultError

from .five_classes import CAT, DOG, GRASS, LABELS, ROAD, SKY, decode

STUFF = (SKY, GRASS, ROAD)
UNKNOWN = 3 + 4
NETWORK = (32, 48)
SPEC = PanopticSegments(stuff_area_limit=20, score_threshold=0.1)


def stretched(frame=(16, 24), network=NETWORK):
    return preprocess(Stretch(size=network), np.zeros((*frame, 3), np.uint8))[1]


def head(**changes):
    """8x12 maps: sky above grass; slot 0 a cat, slot 1 a dog whose semantics are grass."""
    segments = np.zeros((1, 8, 12), np.int32)
    segments[:, 4:] = 1
    segments[:, 2:6, 1:4] = 3
    segments[:, 3:6, 7:10] = 4
    semantic = np.full((1, 8, 12), SKY, np.int32)
    semantic[:, 4:] = GRASS
    semantic[:, 2:6, 1:4] = CAT
    semantic[:, 4:6, 7:10] = GRASS
    return {
        "scores": np.array([[0.5, 0.9, 0.05, 0.0]], np.float32),
        "classes": np.array([[CAT, DOG, 77, -3]], np.int32),
        "segments": segments,
        "semantic": semantic,
    } | changes


def slow(spec, outputs, geometry):
    """The rule in full resolution: (class, score, mask) of each segment, and the frame is partitioned."""
    height, width = geometry.source_size
    _, h, w = outputs["segments"].shape
    codes = np.full((height, width), -1)
    semantic = np.full((height, width), -1)
    across, down = geometry.axes()

    def cell(pixel, axis, cells):
        place = ((pixel + 0.5) * axis.scale + axis.offset) * cells / axis.network_length
        return int(np.floor(np.rint(place * 2**22) / 2**22))

    rows = [cell(y, down, h) for y in range(height)]
    columns = [cell(x, across, w) for x in range(width)]
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if 0 <= row < h and 0 <= column < w:
                codes[y, x] = outputs["segments"][0, row, column]
                semantic[y, x] = outputs["semantic"][0, row, column]
    stuff = {kind: codes == number for number, kind in enumerate(STUFF)}
    things = []
    for slot, score in enumerate(outputs["scores"][0].tolist()):
        mask = codes == len(STUFF) + slot
        if score <= np.float32(spec.score_threshold) or not mask.any():
            continue
        counts = [int((semantic[mask] == kind).sum()) for kind in range(len(LABELS))]
        winner = counts.index(max(counts))
        if winner in STUFF and counts[winner] / mask.sum() >= spec.agreement:
            stuff[winner] = stuff[winner] | mask
        else:
            things.append((int(outputs["classes"][0, slot]), score, mask))
    things.sort(key=lambda thing: -thing[1])
    kept = [(kind, 1.0, mask) for kind, mask in stuff.items() if mask.sum() >= max(1, spec.stuff_area_limit)]
    return things + kept


def assert_same(found, reference):
    assert found.classes.tolist() == [kind for kind, _, _ in reference]
    np.testing.assert_array_equal(found.scores, np.float32([score for _, score, _ in reference]))
    expected = np.zeros(found.frame_size, int)
    for number, (_, _, mask) in enumerate(reference, 1):
        expected[mask] = number
        assert found.areas[number - 1] == mask.sum()
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found.boxes[number - 1].tolist() == box
    np.testing.assert_array_equal(found.segments, expected)


@st.composite
def any_head(draw):
    rng = np.random.default_rng(draw(st.integers(0, 99999)))
    h, w = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    slots = draw(st.integers(0, 4))
    coarse = draw(st.integers(1, 4))

    def patches(values):
        small = rng.integers(0, values, (-(-h // coarse), -(-w // coarse)))
        return small.repeat(coarse, axis=0).repeat(coarse, axis=1)[None, :h, :w].astype(np.int32)

    return {
        "scores": rng.choice(np.float32([0, 0.1, 0.3, 0.3, 0.9]), (1, slots)),
        "classes": rng.integers(0, 2, (1, slots)).astype(np.int32),
        "segments": patches(len(STUFF) + slots + 1),
        "semantic": patches(len(LABELS)),
    }


@st.composite
def any_geometry(draw):
    frame = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    if draw(st.booleans()):
        spec = draw(st.sampled_from([Stretch(size=NETWORK), Letterbox(size=NETWORK)]))
        return preprocess(spec, np.zeros((*frame, 3), np.uint8))[1]
    scale = draw(st.tuples(st.floats(0.2, 6), st.floats(0.2, 6)))
    offset = draw(st.tuples(st.floats(-40, 40), st.floats(-40, 40)))
    return scaling(frame, NETWORK, scale, offset)


@given(any_head(), any_geometry(), st.integers(0, 60), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
@settings(max_examples=100, deadline=None)
def test_counting_at_the_maps_resolution_is_counting_frame_pixels(outputs, geometry, limit, agreement):
    spec = msgspec.structs.replace(SPEC, stuff_area_limit=limit, agreement=agreement)
    found = decode(spec, outputs, geometry)
    assert_same(found, slow(spec, outputs, geometry))
    assert found.areas.sum() + (found.segments == 0).sum() == found.segments.size
    again = decode(spec, outputs, geometry)
    np.testing.assert_array_equal(found.segments, again.segments)


def test_an_instance_on_stuff_becomes_that_stuff():
    found = decode(SPEC, head(), stretched())
    assert found.names == ("cat", "sky", "grass")
    assert found.scores.tolist() == [0.5, 1, 1]
    assert found.display_threshold == SPEC.display_threshold
    # The dog's rows 3..5 were grass in rows 4 and 5, sky in row 3: it went to grass as a whole.
    assert found.segments[7, 15] == 3
    assert found.areas.tolist() == [4 * 12, 16 * 12 - 4 * (2 * 3 + 3), 16 * 12 - 4 * (2 * 3) + 4 * 3]


@pytest.mark.parametrize(("agreement", "merged"), [(0.5, True), (2 / 3, True), (0.67, False), (1.0, False)])
def test_the_agreement_decides_and_a_share_equal_to_it_is_enough(agreement, merged):
    spec = msgspec.structs.replace(SPEC, agreement=agreement)
    found = decode(spec, head(), stretched())
    assert ("dog" not in found.names) == merged


def test_a_vote_for_another_thing_changes_nothing():
    semantic = head()["semantic"]
    semantic[:, 3:6, 7:10] = CAT
    found = decode(SPEC, head(semantic=semantic), stretched())
    assert found.names == ("dog", "cat", "sky", "grass")


def test_equal_votes_go_to_the_lower_index():
    semantic = head()["semantic"]
    semantic[:, 3:6, 7:10] = [[[DOG, GRASS, DOG], [GRASS, DOG, GRASS], [ROAD, ROAD, SKY]]]
    # Three for the dog, three for grass.
    spec = msgspec.structs.replace(SPEC, agreement=0.0)
    assert "dog" in decode(spec, head(semantic=semantic), stretched()).names


def test_stuff_below_the_limit_is_void_and_at_the_limit_it_is_not():
    segments = head()["segments"]
    segments[:, 7, :5] = 2
    outputs = head(segments=segments)
    for limit, there in ((20, True), (21, False)):
        spec = msgspec.structs.replace(SPEC, stuff_area_limit=limit)
        found = decode(spec, outputs, stretched())
        assert ("road" in found.names) == there
        assert (found.segments[14:, :10] == 0).all() != there


def test_unused_slots_and_the_unknown_are_void():
    segments = head()["segments"]
    segments[:, 0] = UNKNOWN
    segments[:, 1, :6] = 3 + 2
    segments[:, 1, 6:] = 3 + 3
    found = decode(SPEC, head(segments=segments), stretched())
    assert (found.segments[:4] == 0).all()
    assert (found.segments[4:] > 0).all()


def test_a_score_equal_to_the_threshold_is_no_instance():
    spec = msgspec.structs.replace(SPEC, score_threshold=0.5)
    assert "cat" not in decode(spec, head(), stretched()).names


def test_maps_of_bytes_say_the_same():
    wide = head()
    narrow = head(**{name: wide[name].astype(np.uint8) for name in ("segments", "semantic")})
    found, wanted = decode(SPEC, narrow, stretched()), decode(SPEC, wide, stretched())
    np.testing.assert_array_equal(found.segments, wanted.segments)
    np.testing.assert_array_equal(found.areas, wanted.areas)
    with pytest.raises(ResultError, match="outside"):
        decode(SPEC, head(segments=np.full((1, 8, 12), 255, np.uint8)), stretched())


def test_all_void():
    everything = np.full((1, 8, 12), UNKNOWN, np.int32)
    found = decode(SPEC, head(segments=everything), stretched())
    assert len(found) == 0
    assert (found.segments == 0).all()


def test_no_slots_at_all():
    outputs = head(
        scores=np.zeros((1, 0), np.float32),
        classes=np.zeros((1, 0), np.int64),
        segments=np.minimum(head()["segments"], 3),
    )
    found = decode(SPEC, outputs, stretched())
    assert found.names == ("sky", "grass")
    assert (found.segments[4:12, 2:8] == 0).all()


def test_an_instance_in_the_padding_vanishes():
    geometry = preprocess(Letterbox(size=NETWORK), np.zeros((16, 48, 3), np.uint8))[1]
    segments, semantic = np.zeros((1, 8, 12), np.int32), np.full((1, 8, 12), SKY, np.int32)
    segments[:, :2], semantic[:, :2] = 3, CAT
    segments[:, 5, 3], semantic[:, 5, 3] = 4, DOG
    found = decode(SPEC, head(segments=segments, semantic=semantic), geometry)
    assert found.names == ("dog", "sky")
    assert found.areas.tolist() == [16, 16 * 48 - 16]
    assert found.boxes[0].tolist() == [12, 12, 16, 16]


def test_outputs_are_not_changed():
    outputs, before = head(), head()
    decode(SPEC, outputs, stretched())
    for name in outputs:
        np.testing.assert_array_equal(outputs[name], before[name])


def without(name):
    return {key: array for key, array in head().items() if key != name}


def with_value(name, value):
    outputs = head()
    outputs[name][0, 0] = value
    return outputs


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (without("scores"), "no output 'scores'"),
        (without("classes"), "no output 'classes'"),
        (without("segments"), "no output 'segments'"),
        (without("semantic"), "no output 'semantic'"),
        (head(scores=np.zeros(4, np.float32)), "shape"),
        (head(scores=np.zeros((1, 4))), "float64"),
        (head(scores=np.zeros((), np.float32)), "shape"),
        (head(classes=np.zeros((1, 3), np.int32)), "shape"),
        (head(classes=np.zeros((1, 4), np.uint8)), "uint8"),
        (head(segments=np.zeros((8, 12), np.int32)), "shape"),
        (head(segments=np.zeros((1, 0, 12), np.int32)), "shape"),
        (head(segments=np.zeros((1, 8, 12), np.float32)), "float32"),
        (head(semantic=np.zeros((1, 8, 11), np.int32)), "shape"),
        (with_value("scores", np.nan), "not a number"),
        (with_value("scores", 1.5), "outside 0..1"),
        (with_value("classes", 5), "outside the manifest's 5 classes"),
        (with_value("classes", -1), "outside the manifest's 5 classes"),
        (with_value("classes", SKY), "stuff class"),
        (with_value("segments", UNKNOWN + 1), "outside 0..7"),
        (with_value("segments", -1), "outside 0..7"),
        (with_value("semantic", 5), "outside the manifest's 5 classes"),
        (with_value("semantic", -1), "outside the manifest's 5 classes"),
    ],
)
def test_wrong_outputs_are_named(outputs, says):
    with pytest.raises(ResultError, match=says):
        decode(SPEC, outputs, stretched())


def test_an_unsettled_frame_gives_its_result_and_says_so():
    spec = msgspec.structs.replace(SPEC, settled="settled")
    with pytest.raises(ResultError, match="no output 'settled'"):
        decode(spec, head(), stretched())
    for settled in (1, 0):
        found = decode(spec, head(settled=np.array([settled], np.int32)), stretched())
        assert len(found) == 3
        assert found.settled == found.above(0.6).settled == is_settled(found) == bool(settled)


def test_a_turned_geometry_is_refused():
    turned = Geometry((9, 9), NETWORK, np.array([[0.0, 1, 0], [1, 0, 0]]))
    with pytest.raises(ResultError, match="turned"):
        decode(SPEC, head(), turned)
