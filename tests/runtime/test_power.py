"""The power mode is what `nvpmodel` says, and nothing where there is none or it does not say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewise.runtime.engines.cuda import Gpu
from edgewise.runtime.system.power import power_mode


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands before all others."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def put(tools: Path, script: str) -> None:
    path = tools / "nvpmodel"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_machine_without_the_tool_has_no_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() == ""


@pytest.mark.parametrize(
    ("script", "mode"),
    [
        ('[ "$1" = -q ] && printf "NV Power Mode: MAXN_SUPER\\n2\\n"', "MAXN_SUPER"),
        ('echo "NVPM WARN: fan mode is not set!"; echo "NV Power Mode: 15W "; echo 0', "15W"),
        ("echo NV Fan Mode: quiet", ""),
        ("printf 'NV Power Mode: \\n\\n'", ""),
        ("printf '\\377\\376'", ""),
        ("echo NV Power Mode: MAXN; exit 1", ""),
    ],
)
def test_what_the_tool_says(tools: Path, script: str, mode: str) -> None:
    put(tools, script)
    assert power_mode() == mode


def test_engines_and_timings_of_another_mode_are_others() -> None:
    """Both are named by `tuned_for`."""
    modes = ["", "15W", "MAXN"]
    names = [Gpu(0, "Orin", "sm87", 8, mode).tuned_for for mode in modes]
    assert names == [
        "Orin, 8 multiprocessors",
        "Orin, 8 multiprocessors, power mode 15W",
        "Orin, 8 multiprocessors, power mode MAXN",
    ]
