"""What edgewise did not write is never replaced, with or without --force."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise.runtime.system.atomic import staged_folder, write_bytes
from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.system.ownership import MARKER, refuse_existing_file


def link_to_file(path: Path) -> None:
    path.with_name("elsewhere").write_text("mine")
    path.symlink_to(path.with_name("elsewhere"))


def link_to_folder(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to(path.with_name("elsewhere"))


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("not yet mounted"))


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes device nodes")


STRANGE = [link_to_file, link_to_folder, dangling_link, os.mkfifo, listening_socket, device]


def write_folder(path: Path) -> None:
    with staged_folder(path, replace=True) as folder:
        (folder / "new").touch()


@pytest.mark.parametrize("make", STRANGE)
@pytest.mark.parametrize(
    "write",
    [
        write_folder,
        lambda path: write_bytes(path, b"new"),
        lambda path: refuse_existing_file(path, replace=True),
    ],
)
def test_what_is_neither_file_nor_folder_stays(
    make: Callable[[Path], None], write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "output"
    make(path)
    before = (path.lstat(), sorted(tmp_path.rglob("*")))
    with pytest.raises(EdgewiseError, match=r"exists already and is a .*, which edgewise never replaces"):
        write(path)
    assert before[1] == sorted(tmp_path.rglob("*"))
    assert os.path.samestat(before[0], path.lstat())


@pytest.mark.parametrize(
    "marker",
    ["", "{}", "[]", '{"writer": "edgewise"}', '{"writer": "other", "files": ["mine"]}', "[" * 100_000],
)
def test_a_folder_without_a_list_of_its_files_stays(marker: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine").touch()
    (folder / MARKER).write_text(marker)
    with pytest.raises(EdgewiseError, match="did not write there"):
        write_folder(folder)
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "mine"]


@pytest.mark.parametrize("name", ["mine", "sub/mine", ".mine"])
def test_a_folder_of_ours_with_a_file_of_somebody_else_stays(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path)
    with pytest.raises(EdgewiseError, match="did not write there") as caught:
        write_folder(folder)
    assert name in caught.value.what
    (folder / name).unlink()
    write_folder(folder)


def test_what_comes_while_we_write_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(folder)

    def write() -> None:
        with staged_folder(folder, replace=True) as staged:
            (staged / "new").touch()
            (folder / "mine").touch()

    with pytest.raises(EdgewiseError, match=r"did not write there \(mine\)"):
        write()
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "mine", "new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
