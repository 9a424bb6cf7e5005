"""One writer at a time: the second waits or is told who the first is, and the dead hold nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgewise.runtime.system.claims import claim
from edgewise.runtime.system.errors import EdgewiseError

HOLDER = """
import pathlib, sys, time
from edgewise.runtime.system.claims import claim
with claim(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def take(path: Path) -> None:
    with claim(path):
        pass


def test_the_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with held_elsewhere(tmp_path / "out") as holder:
        for name in ("out", "link"):
            with pytest.raises(EdgewiseError, match=f"being written by process {holder.pid} on"):
                take(tmp_path / name)
        take(tmp_path / "other")
        holder.communicate(b"\n")
        take(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link"]


def test_it_may_wait(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "out") as holder:
        said: list[str] = []

        def release(who: str) -> None:
            said.append(who)
            assert holder.stdin is not None
            holder.stdin.write(b"\n")
            holder.stdin.flush()

        with claim(tmp_path / "out", waiting=release):
            assert holder.wait() == 0
        assert len(said) == 1
        assert f"process {holder.pid}" in said[0]


def test_what_a_killed_holder_left_locks_nothing(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "out") as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert len(os.listdir(tmp_path)) == 1
        take(tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_thread_holds_what_it_holds_and_another_does_not(tmp_path: Path) -> None:
    errors: list[str] = []

    def other() -> None:
        try:
            take(tmp_path / "out")
        except EdgewiseError as error:
            errors.append(error.what)

    with claim(tmp_path / "out") as first, claim(tmp_path / "out") as again:
        assert (first, again) == (True, False)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(errors) == 1
    take(tmp_path / "out")


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each adds one to a number that it reads and writes back; locks are removed and made all the time."""
    number = tmp_path / "number"
    number.write_text("0")

    def add() -> None:
        for _ in range(50):
            with claim(number, waiting=lambda holder: None):
                number.write_text(str(int(number.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number.read_text() == "200"


def test_folders_that_a_claim_made_go_again(tmp_path: Path) -> None:
    take(tmp_path / "a" / "b" / "out")
    assert os.listdir(tmp_path) == []
    with claim(tmp_path / "a" / "b" / "out"):
        (tmp_path / "a" / "b" / "out").touch()
    assert (tmp_path / "a" / "b" / "out").exists()


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgewiseError, match="cannot be written"):
        take(tmp_path / "file" / "out")
