"""Files and folders appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys

import pytest

from edgewise.runtime.system.atomic import sha256_of, staged_file, staged_folder, write_bytes, write_text
from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.system.ownership import MARKER, refuse_existing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail_half_way(staging, error, inside=""):
    with staging as temporary:
        target = temporary / inside if inside else temporary
        target.write_bytes(b"half of the new")
        raise error


def test_hash(tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(data)
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "big") == hashlib.sha256(data).hexdigest()
    assert sha256_of(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


def test_files_are_written_and_replaced(tmp_path):
    path = tmp_path / "deep" / "er" / "note.txt"
    write_text(path, "größer")
    assert path.read_bytes() == "größer".encode()
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["note.txt"]


def test_a_file_has_the_usual_permissions(tmp_path):
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes[0] == modes[1]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.json"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError):
        fail_half_way(staged_file(path), ZeroDivisionError)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["table.json"]


def test_a_failure_leaves_no_new_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(staged_file(tmp_path / "new.bin"), KeyboardInterrupt)
    assert names(tmp_path) == []


def test_a_reader_sees_the_old_file_until_the_end(tmp_path):
    path = tmp_path / "table.json"
    write_bytes(path, b"old")
    with staged_file(path) as temporary:
        # Encoders choose the format by the suffix; a rename needs the same file system.
        assert (temporary.suffix, temporary.parent) == (".json", tmp_path)
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_file_cannot_replace_a_folder(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(EdgewiseError, match="is a folder, which edgewise never replaces"):
        write_bytes(tmp_path / "taken", b"data")
    assert names(tmp_path) == ["taken"]


def test_folders_appear_whole(tmp_path):
    path = tmp_path / "out" / "bundle"
    with staged_folder(path) as temporary:
        (temporary / "models").mkdir()
        (temporary / "models" / "a.onnx").write_bytes(b"a")
        assert not path.exists()
    assert (path / "models" / "a.onnx").read_bytes() == b"a"
    assert names(path.parent) == ["bundle"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail_half_way(staged_folder(tmp_path / "bundle"), ZeroDivisionError, "manifest.json")
    assert names(tmp_path) == []


def test_a_full_folder_is_not_overwritten(tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "precious").touch()
    with pytest.raises(EdgewiseError, match="exists"), staged_folder(path):
        pytest.fail("the work must not start")
    assert names(path) == ["precious"]
    with pytest.raises(EdgewiseError, match="exists"):
        refuse_existing(path / "precious", replace=False)


def test_an_empty_folder_may_be_filled(tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    with staged_folder(path) as temporary:
        (temporary / "new").touch()
    assert names(path) == [MARKER, "new"]
    assert names(tmp_path) == ["bundle"]


def test_replacing_takes_the_old_files_away(tmp_path):
    path = tmp_path / "bundle"
    with staged_folder(path) as temporary:
        (temporary / "old").touch()
    with staged_folder(path, replace=True) as temporary:
        (temporary / "new").touch()
        assert names(path) == [MARKER, "old"]
    assert names(path) == [MARKER, "new"]
    assert names(tmp_path) == ["bundle"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path):
    path = tmp_path / "bundle"
    with staged_folder(path) as temporary:
        (temporary / "old").touch()
    with pytest.raises(ZeroDivisionError), staged_folder(path, replace=True):
        raise ZeroDivisionError
    assert names(path) == [MARKER, "old"]
    assert names(tmp_path) == ["bundle"]


def test_a_folder_replaces_a_file_when_told_to(tmp_path):
    path = tmp_path / "bundle"
    path.touch()
    with staged_folder(path, replace=True) as temporary:
        (temporary / "new").touch()
    assert names(path) == [MARKER, "new"]
    assert names(tmp_path) == ["bundle"]


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.json"
    write_bytes(path, b"old")
    program = (
        "import os, pathlib, sys\n"
        "from edgewise.runtime.system.atomic import staged_file\n"
        "with staged_file(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half of the new')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert finished.returncode == -9
    assert path.read_bytes() == b"old"
