"""Files of a set appear together, replace an earlier set alone, and leave everything else where it is."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgewise.runtime.system.atomic import staged_folder
from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.system.output_set import OutputSet
from edgewise.runtime.system.ownership import MARKER

NAMES = ["results.json", "overlay"]


def names(folder: Path) -> list[str]:
    """Files and folders, without the list of ours."""
    return sorted(path.name for path in folder.rglob("*") if path.name != MARKER)


def write_all(folder: OutputSet, text: str = "[]") -> None:
    folder.path("results.json").write_text(text)
    folder.path("overlay").mkdir()
    (folder.path("overlay") / f"{text}.jpg").write_bytes(b"a")


def publish(folder: Path, text: str, *, replace: bool = False, partial: bool = False) -> list[Path]:
    with OutputSet(folder, NAMES, replace=replace) as files:
        write_all(files, text)
        return files.publish(partial=partial)


def test_nothing_is_visible_before_it_is_published(tmp_path: Path) -> None:
    with OutputSet(tmp_path / "out", NAMES) as files:
        write_all(files, "a")
        assert not (tmp_path / "out").exists()
        assert files.publish() == [tmp_path / "out" / "results.json", tmp_path / "out" / "overlay"]
    assert names(tmp_path / "out") == ["a.jpg", "overlay", "results.json"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    with OutputSet(tmp_path / "deep" / "out", NAMES) as files:
        write_all(files)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("beside_others", [False, True])
def test_a_partial_set_leaves_the_complete_one(tmp_path: Path, beside_others: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    others = ["mine.txt"] if beside_others else []
    for name in others:
        (out / name).write_text("mine")
    publish(out, "a", partial=True)
    assert names(out) == sorted(["a.jpg", "overlay.partial", "results.partial.json", *others])
    with pytest.raises(EdgewiseError, match=r"already holds results\.partial\.json, overlay\.partial"):
        publish(out, "b")
    publish(out, "b", replace=True)
    assert names(out) == sorted(["b.jpg", "overlay", "results.json", *others])
    publish(out, "c", replace=True, partial=True)
    assert (out / "results.json").read_text() == "b"
    assert (out / "results.partial.json").read_text() == "c"
    publish(out, "d", replace=True, partial=True)
    assert (out / "results.partial.json").read_text() == "d"
    publish(out, "e", replace=True)
    assert names(out) == sorted(["e.jpg", "overlay", "results.json", *others])


@pytest.mark.parametrize("beside_others", [False, True])
def test_a_set_takes_the_place_of_the_earlier_one_whatever_that_held(
    tmp_path: Path, beside_others: bool
) -> None:
    out = tmp_path / "out"
    publish(out, "a")
    if beside_others:
        (out / "mine.txt").write_text("mine")
    with OutputSet(out, ["results.json"], replace=True) as files:
        files.path("results.json").write_text("b")
        files.publish()
    assert names(out) == [*(["mine.txt"] if beside_others else []), "results.json"]


def test_without_force_nothing_goes(tmp_path: Path) -> None:
    publish(tmp_path / "out", "a")
    with pytest.raises(EdgewiseError, match=r"already holds results\.json, overlay"):
        publish(tmp_path / "out", "b")
    with OutputSet(tmp_path / "out", ["other.json"]) as files:
        files.path("other.json").write_text("c")
        files.publish()
    assert names(tmp_path / "out") == ["a.jpg", "other.json", "overlay", "results.json"]
    publish(tmp_path / "out", "d", replace=True)
    assert names(tmp_path / "out") == ["d.jpg", "overlay", "results.json"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_folder_of_the_user_stays(tmp_path: Path, earlier: bool) -> None:
    if earlier:
        publish(tmp_path, "a")
    (tmp_path / "overlay").mkdir(exist_ok=True)
    (tmp_path / "overlay" / "mine.jpg").write_bytes(b"mine")
    for replace in (False, True):
        with pytest.raises(EdgewiseError, match=r"already holds .*overlay|such as mine\.jpg"):
            publish(tmp_path, "b", replace=replace)
    assert (tmp_path / "overlay" / "mine.jpg").read_bytes() == b"mine"


def test_links_in_the_way_stay(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(EdgewiseError, match="is a link"):
        publish(tmp_path / "out", "a", replace=True)
    assert (tmp_path / "elsewhere.json").read_text() == "mine"


def test_the_working_directory_is_filled_and_not_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    publish(Path(), "a")
    publish(Path(), "b", replace=True)
    assert tmp_path.stat().st_ino == before
    assert names(tmp_path) == ["b.jpg", "overlay", "results.json"]


def test_a_mount_is_filled_and_not_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nothing can be renamed to has its staging inside."""
    for module in ("claims", "publishing"):
        monkeypatch.setattr(f"edgewise.runtime.system.{module}.writable_beside", lambda path: False)
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    with OutputSet(out, NAMES) as files:
        write_all(files, "a")
        assert os.listdir(tmp_path) == ["out"]
        files.publish()
    publish(out, "b", replace=True)
    assert out.stat().st_ino == before
    assert sorted(os.listdir(out)) == [MARKER, "overlay", "results.json"]
    (out / "sub").mkdir()
    with pytest.raises(EdgewiseError, match="it is a mount"), staged_folder(tmp_path / "out" / "sub"):
        pytest.fail("nothing can be exchanged for it")


def test_the_permissions_of_the_folder_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o751)
    publish(out, "a")
    publish(out, "b", replace=True)
    assert out.stat().st_mode & 0o777 == 0o751


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "name").write_text("x")
    else:
        (tmp_path / "name").symlink_to(tmp_path / "gone")
    with pytest.raises(EdgewiseError, match="cannot be written"):
        OutputSet(tmp_path / "name", NAMES)
    assert len(os.listdir(tmp_path)) == 1


def test_two_at_once_are_told(tmp_path: Path) -> None:
    """Another thread stands for another process: claims are of files, not of processes."""
    with OutputSet(tmp_path / "out", NAMES), ThreadPoolExecutor(1) as pool:
        second = pool.submit(publish, tmp_path / "out", "b", replace=True)
        assert isinstance(second.exception(), EdgewiseError)
        assert "being written by process" in str(second.exception())
