"""Hints that name an extra can be followed: edgewise itself is on no package registry."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from edgewise.runtime.system.errors import MissingExtraError
from edgewise.runtime.system.extras import install_command

ROOT = Path(__file__).parents[2]
METADATA = """Metadata-Version: 2.1
Name: edgewise
Version: 9.0
Provides-Extra: export
Requires-Dist: numpy>=1.24
Requires-Dist: torch<=2.13.0,>=2.8; extra == "export"
Requires-Dist: onnx>=1.18 ; extra == 'export'
Requires-Dist: tomli>=2; python_version < "3.11" and extra == "export"
Requires-Dist: pycuda; extra == "tensorrt"
Requires-Dist: edgewise[export]; extra == "export-more"
"""


def test_an_installation_names_the_packages_of_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgewise-9.0.dist-info").mkdir()
    (tmp_path / "edgewise-9.0.dist-info" / "METADATA").write_text(METADATA)
    monkeypatch.syspath_prepend(tmp_path)
    packages = ["torch<=2.13.0,>=2.8", "onnx>=1.18", 'tomli>=2; python_version < "3.11"']
    assert shlex.split(install_command("export")) == ["pip", "install", *packages]
    assert install_command("tensorrt") == "pip install pycuda"
    assert MissingExtraError("export", "export").hint == install_command("export")


def test_a_source_tree_that_was_not_installed_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert install_command("rtx").startswith('pip install ".[rtx]"')


def test_nothing_says_that_a_registry_has_edgewise() -> None:
    """Neither in code nor in what a user reads."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    code = [
        file
        for package in ("runtime", "calibration", "models", "exporter", "examples", "benchmarks")
        for file in (ROOT / package).rglob("*.py")
    ]
    found = [
        file.name for file in pages + code if re.search(r"pip install [\"']?edgewise\b", file.read_text())
    ]
    assert found == []
