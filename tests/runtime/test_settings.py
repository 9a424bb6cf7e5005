"""What a user may set of a manifest's postprocessing, and what not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import HeatmapDecoding, HeatmapKeypoints, PrototypeInstances
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.contract.settings import with_settings
from edgewise.runtime.system.errors import ManifestError
from edgewise.runtime.walk.session import Session

from .conftest import ONE_THREAD, SIZE, bright_frame, detector_manifest
from .pose_bundle import pose_manifest


def test_only_what_was_named_changes() -> None:
    pose = pose_manifest()
    settings = {"postprocess.flip_test": "true", "postprocess.decoding": "dark"}
    changed = with_settings(pose, settings)
    assert isinstance(pose.postprocess, HeatmapKeypoints)
    wanted = msgspec.structs.replace(pose.postprocess, flip_test=True, decoding=HeatmapDecoding.DARK)
    assert changed == msgspec.structs.replace(pose, postprocess=wanted)
    assert pose == pose_manifest()


def test_values_are_read_as_json_or_as_words() -> None:
    def spec(name: str, value: str) -> PrototypeInstances:
        found = with_settings(detector_manifest({}), {f"postprocess.{name}": value}).postprocess
        assert isinstance(found, PrototypeInstances)
        return found

    assert spec("display_threshold", "0.7").display_threshold == 0.7
    assert spec("display_threshold", "1").display_threshold == 1
    assert spec("mask_rule", '"bilinear-half-pixel"') == spec("mask_rule", "bilinear-half-pixel")


def test_nothing_set_is_the_manifest_itself() -> None:
    pose = pose_manifest()
    assert with_settings(pose, {}) is pose


@pytest.mark.parametrize(
    ("manifest", "name", "value", "message"),
    [
        (pose_manifest(), "postprocess.flips", "true", "'postprocess.flips' cannot be set"),
        (pose_manifest(), "flip_test", "true", "'flip_test' cannot be set"),
        (pose_manifest(), "preprocess.size", "[8, 8]", "'preprocess.size' cannot be set"),
        (pose_manifest(), "postprocess.heatmaps", "image", "'postprocess.heatmaps' cannot be set"),
        (detector_manifest({}), "postprocess.settled", "scores", "'postprocess.settled' cannot be set"),
        (pose_manifest(), "postprocess.flip_test", "maybe", "postprocess.flip_test cannot be 'maybe'"),
        (pose_manifest(), "postprocess.flip_test", "1", "postprocess.flip_test cannot be '1'"),
        (pose_manifest(), "postprocess.score_threshold", "1.5", "cannot be '1.5'"),
        (pose_manifest(), "postprocess.score_threshold", "NaN", "cannot be 'NaN'"),
        (pose_manifest(), "postprocess.decoding", "light", "cannot be 'light'"),
        # A value that fits its field, and not the rest of the manifest.
        (detector_manifest({}), "postprocess.mask_rule", "paste-aligned", "resampled by the rule"),
    ],
)
def test_what_cannot_be_set(manifest: Manifest, name: str, value: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        with_settings(manifest, {name: value})
    assert caught.value.where == manifest.name


def test_an_unknown_field_names_the_known_ones_and_no_outputs() -> None:
    with pytest.raises(ManifestError) as caught:
        with_settings(pose_manifest(), {"postprocess.flips": "true"})
    assert "postprocess.flip_test" in caught.value.hint
    assert "postprocess.heatmaps" not in caught.value.hint


def test_a_flip_test_needs_crops() -> None:
    whole = msgspec.structs.replace(pose_manifest(), preprocess=Stretch(size=SIZE))
    assert with_settings(whole, {"postprocess.flip_test": "false"}) == whole
    with pytest.raises(ManifestError, match="look at crops have a flip test"):
        with_settings(whole, {"postprocess.flip_test": "true"})


def test_a_flip_test_needs_to_know_left_from_right() -> None:
    pose = pose_manifest()
    assert pose.keypoints is not None
    unsaid = msgspec.structs.replace(pose, keypoints=msgspec.structs.replace(pose.keypoints, flip_pairs=()))
    assert with_settings(unsaid, {"postprocess.flip_test": "false"}) == unsaid
    with pytest.raises(ManifestError, match="takes left for right"):
        with_settings(unsaid, {"postprocess.flip_test": "true"})


def test_a_session_runs_with_what_was_set(bundle_folder: Path) -> None:
    frame = bright_frame(200)
    for threshold, names in (("0", ("bright", "dim")), ("0.5", ("bright",))):
        settings = {"postprocess.score_threshold": threshold}
        with Session.open(bundle_folder, backend=ONE_THREAD, settings=settings) as session:
            assert session(frame).names == names
    with pytest.raises(ManifestError, match="cannot be set"):
        Session.open(bundle_folder, backend=ONE_THREAD, settings={"postprocess.scores": "boxes"})
