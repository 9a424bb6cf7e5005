"""Points that a graph gives as shares of its input: against the published loops, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel, Graph, KeypointLayout, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import PointOrigin, RegressedKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop, Preprocess, Stretch
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.frames.looks import FrameBoxes, Looks
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import ResultError

LAYOUT = KeypointLayout(names=("nose", "left_eye", "right_eye"), flip_pairs=((1, 2),))
SIZE = (64, 48)
FRAME = np.zeros((200, 300, 3), np.uint8)
BOXES = FrameBoxes(
    np.array([[20, 30, 80, 120], [100, 40, 130, 160]], np.float64), np.array([0.5, 1.0], np.float32)
)


def manifest(
    preprocess: Preprocess | None = None, layout: KeypointLayout | None = LAYOUT, **fields
) -> Manifest:
    return Manifest(
        writer="edgewise tests",
        name="regressor",
        classes=(ClassLabel(id=1, name="person"),),
        keypoints=layout,
        provenance=Provenance(definition="tests"),
        graphs={"main": Graph(inputs=(), outputs=())},
        preprocess=preprocess or AffineCrop(size=SIZE, padding=1.25),
        postprocess=RegressedKeypoints(**fields),
    )


def answers(looks: Looks, seed: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "points": rng.uniform(-0.1, 1.1, (1, 3, 2)).astype(np.float32),
            "sure": rng.uniform(0.1, 1.0, (1, 3)).astype(np.float32),
        }
        for _ in looks.looks
    ]


def found_of(model: Manifest, outputs: list[dict[str, np.ndarray]]) -> Keypoints:
    found = decode_result(model, looks_of(model, FRAME, BOXES), outputs)
    assert isinstance(found, Keypoints)
    return found


def crop_of(box: np.ndarray) -> tuple[float, float, float, float]:
    """Origin and sides of a crop as mmpose's box becomes centre and scale: to the aspect ratio, then 1.25."""
    x1, y1, x2, y2 = box.tolist()
    w, h, aspect = x2 - x1, y2 - y1, SIZE[1] / SIZE[0]
    if w > aspect * h:
        h = w / aspect
    else:
        w = h * aspect
    w, h = 1.25 * w, 1.25 * h
    return (x1 + x2) / 2 - w / 2, (y1 + y2) / 2 - h / 2, w, h


@pytest.mark.parametrize("origin", PointOrigin)
def test_a_share_of_the_crop_goes_to_the_frame(origin: PointOrigin) -> None:
    model = manifest(origin=origin)
    outputs = answers(looks_of(model, FRAME, BOXES))
    found = found_of(model, outputs)
    for person, box in enumerate(BOXES.boxes):
        left, top, w, h = crop_of(box)
        half_x, half_y = {
            PointOrigin.CORNER: (0.0, 0.0),
            PointOrigin.INPUT_PIXEL: (0.5 * w / SIZE[1], 0.5 * h / SIZE[0]),
            PointOrigin.FRAME_PIXEL: (0.5, 0.5),
        }[origin]
        for point, (x, y) in enumerate(outputs[person]["points"][0].tolist()):
            wanted = left + x * w + half_x, top + y * h + half_y
            np.testing.assert_allclose(found.points[person, point], wanted, atol=1e-4)
    assert (found.point_scores == 1).all()
    np.testing.assert_array_equal(found.scores, BOXES.scores)


@pytest.mark.parametrize("shift", [False, True])
def test_the_flip_test_is_the_published_one(shift: bool) -> None:
    model = manifest(flip_test=True, flip_shift=shift, scores="sure")
    outputs = answers(looks_of(model, FRAME, BOXES))
    wanted, sure = [], []
    for straight, mirrored in zip(outputs[::2], outputs[1::2], strict=True):
        turned, turned_sure = mirrored["points"][0].copy(), mirrored["sure"][0].copy()
        for left, right in LAYOUT.flip_pairs:
            turned[[left, right]] = mirrored["points"][0][[right, left]]
            turned_sure[[left, right]] = mirrored["sure"][0][[right, left]]
        turned[:, 0] = 1 - turned[:, 0]
        if shift:
            turned[:, 0] -= 1.0 / SIZE[1]
        wanted.append({"points": ((straight["points"][0] + turned) * 0.5)[None]})
        sure.append((straight["sure"][0] + turned_sure) * 0.5)
    found = found_of(model, outputs)
    np.testing.assert_allclose(found.points, found_of(manifest(), wanted).points, atol=1e-4)
    np.testing.assert_allclose(found.point_scores, sure, rtol=1e-6)


def test_the_shift_is_right_for_numbers_of_pixels() -> None:
    """Pixel i of W is pixel W - 1 - i of the mirror: a network that counts them so agrees with itself."""
    model = manifest(flip_test=True, flip_shift=True, origin=PointOrigin.INPUT_PIXEL)
    shares = np.array([[10, 7], [3, 40], [30, 41]], np.float32) / (SIZE[1], SIZE[0])
    mirrored = shares[[0, 2, 1]] * (-1, 1) + ((SIZE[1] - 1) / SIZE[1], 0)
    outputs = [{"points": each[None].astype(np.float32)} for each in (shares, mirrored)] * 2
    alone = found_of(manifest(origin=PointOrigin.INPUT_PIXEL), outputs[::2])
    np.testing.assert_allclose(found_of(model, outputs).points, alone.points, atol=1e-4)


def test_scores_count_where_the_graph_gives_them() -> None:
    model = manifest(scores="sure", score_threshold=0.5)
    outputs = answers(looks_of(model, FRAME, BOXES))
    outputs[0]["sure"][:] = [[0.9, 0.6, 0.2]]
    outputs[1]["sure"][:] = [[1.5, -0.5, 0.4]]
    found = found_of(model, outputs)
    np.testing.assert_allclose(found.point_scores, [[0.9, 0.6, 0.2], [1, 0, 0.4]])
    np.testing.assert_allclose(found.scores, [0.5 * 0.75, 1.0])


def test_nobody_and_a_whole_frame() -> None:
    model = manifest(flip_test=True)
    nobody = FrameBoxes(np.zeros((0, 4), np.float64), np.zeros(0, np.float32))
    assert decode_result(model, looks_of(model, FRAME, nobody), []).records(1) == []
    model = manifest(Stretch(size=SIZE))
    looks = looks_of(model, FRAME)
    found = decode_result(model, looks, [{"points": np.full((1, 3, 2), 0.25, np.float32)}])
    np.testing.assert_allclose(found.points[0, 0], [75, 50], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a[0], r"\[3, 2\]"),
        (lambda a: a[:, :2], r"\[1, 2, 2\]"),
        (lambda a: a.astype(np.float16), "float16"),
        (lambda a: np.where(a > 0, np.nan, a).astype(np.float32), "not finite"),
        (lambda a: np.full_like(a, np.inf), "not finite"),
    ],
)
def test_wrong_points_are_named(change: Callable[[np.ndarray], np.ndarray], says: str) -> None:
    model = manifest()
    outputs = answers(looks_of(model, FRAME, BOXES))
    outputs[1]["points"] = change(outputs[1]["points"])
    with pytest.raises(ResultError, match=says) as caught:
        found_of(model, outputs)
    assert "'points'" in str(caught.value)


def test_missing_scores_and_other_looks_are_refused() -> None:
    plain, flipped = manifest(scores="confidence"), manifest(flip_test=True)
    outputs = answers(looks_of(plain, FRAME, BOXES))
    with pytest.raises(ResultError, match="no output 'confidence'"):
        found_of(plain, outputs)
    with pytest.raises(ResultError, match="flip test"):
        decode_result(flipped, looks_of(plain, FRAME, BOXES), outputs)


def test_what_the_manifest_must_say_besides() -> None:
    bare = KeypointLayout(names=LAYOUT.names)
    cases = (
        (manifest(layout=None), "names no keypoints"),
        (manifest(layout=bare, flip_test=True), "flip pairs"),
        (manifest(Stretch(size=SIZE), flip_test=True), "only models that look at crops"),
    )
    for model, says in cases:
        assert any(says in problem for problem in model.postprocess.problems(model)), says
    assert not list(manifest(flip_test=True).postprocess.problems(manifest(flip_test=True)))
