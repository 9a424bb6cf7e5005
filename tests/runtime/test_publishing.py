"""A kill at any moment leaves the old or the new, whole; the next writer sweeps what the dead one left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = '''
import json, os, pathlib, shutil, sys
from edgewise.runtime.system import publishing
from edgewise.runtime.system.atomic import staged_file, staged_folder
from edgewise.runtime.system.publishing import staging_for, writing

root, what, exchanges, points = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
path = root / "out"
NAMES = ["results.json", "images.json", "overlay"]
if exchanges == "False":
    publishing.exchange = lambda one, other: False


def folder(version):
    with staged_folder(path, replace=True) as staged:
        (staged / "sub").mkdir()
        for name in ("manifest.json", "sub/model.onnx"):
            (staged / name).write_text(version)


def files(version):
    with writing(path), staging_for(path) as staging:
        staging.content.mkdir()
        (staging.content / "overlay").mkdir()
        for name in (*NAMES[:2], "overlay/frame.jpg"):
            (staging.content / name).write_text(version)
        path.mkdir(exist_ok=True)
        staging.publish_files(NAMES, ["stale.json"] if version == "new" else [])


def file(version):
    with staged_file(path) as temporary:
        temporary.write_text(version)


work = {"folder": folder, "files": files, "file": file}[what]


def state():
    """What a reader sees: each file with its version."""
    found = sorted(f for f in (root.rglob("*")) if f.is_file() and "/." not in str(f))
    return {f.relative_to(root).as_posix(): f.read_text() for f in found}


def leftovers():
    return [str(f) for f in root.rglob(".*") if f.name != ".edgewise.json"]


def setup():
    shutil.rmtree(root)
    root.mkdir()
    work("old")
    if what == "files":
        (path / "stale.json").write_text("old")
        (path / "notes.txt").write_text("old new")


def killed_at(point):
    """Whether a process that works is killed when it calls, or returns from, its nth function in C."""
    child = os.fork()
    if child == 0:
        count = 0

        def profile(frame, event, argument):
            nonlocal count
            if event.startswith("c_"):
                count += 1
                if count == point:
                    os.kill(os.getpid(), 9)

        sys.setprofile(profile)
        work("new")
        sys.setprofile(None)
        os.write(2, f"{count}".encode()) if point == 0 else None
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


setup()
old = state()
work("new")
new = state()
setup()
count_of = os.pipe()
error = os.dup(2)
os.dup2(count_of[1], 2)
killed_at(0)
os.dup2(error, 2)
total = int(os.read(count_of[0], 100))
step = max(1, total // points) if points else 1
names = ("old", "new", "part", "mixed", "mixed after the next start", "left", "points")
outcomes = dict.fromkeys(names, 0)
for point in range(1, total + 1, step):
    setup()
    assert killed_at(point), (point, total)
    seen = state()
    outcomes["points"] += 1
    versions = set(seen.values()) & {"old", "new"}
    part = "mixed" if len(versions) > 1 else "part"
    outcomes["old" if seen == old else "new" if seen == new else part] += 1
    with writing(path):
        pass
    outcomes["mixed after the next start"] += state() not in (old, new)
    outcomes["left"] += bool(leftovers())
print(json.dumps(outcomes))
'''


def outcomes(folder: Path, what: str, *, exchanges: bool, points: int) -> dict[str, int]:
    command = [sys.executable, "-c", DRIVER, str(folder), what, str(exchanges), str(points)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", ["file", "folder", "files"])
@pytest.mark.parametrize("exchanges", [True, False])
def test_a_kill_leaves_the_old_or_the_new(what: str, exchanges: bool, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    found = outcomes(tmp_path / "root", what, exchanges=exchanges, points=40)
    assert found["points"] >= 40
    assert found["old"]
    assert found["new"]
    assert not found["mixed after the next start"]
    assert not found["left"]
    assert not found["mixed"]
    if what == "file" or (what == "folder" and exchanges):
        assert not found["part"]
