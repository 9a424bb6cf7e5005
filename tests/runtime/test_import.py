"""Importing the runtime is cheap, and the base install is enough for all of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import edgewise.runtime

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "rich", "typer", "cv2", "tensorrt", "matplotlib")


def loaded_after(statement: str) -> set[str]:
    found = f"[name for name in {HEAVY!r} if name in sys.modules]"
    code = f"import json, sys\n{statement}\nprint(json.dumps({found}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import edgewise.runtime") == set()


def test_a_session_class_loads_opencv_alone() -> None:
    assert loaded_after("from edgewise.runtime import Session, Bundle, Instances, open_source") == {"cv2"}


def test_every_public_name_can_be_had() -> None:
    for name in edgewise.runtime.__all__:
        assert getattr(edgewise.runtime, name).__name__ == name
        assert name in dir(edgewise.runtime)
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        edgewise.runtime.Sesion  # noqa: B018


IN_THE_BASE_INSTALL = """
import importlib, pkgutil
from importlib.util import find_spec
import edgewise.runtime
for name in ("torch", "onnx", "matplotlib", "safetensors"):
    assert find_spec(name) is None, name
names = [info.name for info in pkgutil.walk_packages(edgewise.runtime.__path__, "edgewise.runtime.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print("\\n".join(names))
"""


@pytest.mark.slow(seconds=90, reason="pip installs the base into an environment of its own")
def test_the_base_install_runs_the_whole_runtime(bundle_folder: Path, tmp_path: Path) -> None:
    """A fresh environment with the base install alone, from a copy of this tree."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for package in ("runtime", "calibration", "models", "exporter"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(tmp_path / "env", with_pip=True, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [python, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", tree)
    imported = run("-c", IN_THE_BASE_INSTALL).split()
    sources = {
        "edgewise.runtime." + ".".join(file.relative_to(ROOT / "runtime").with_suffix("").parts)
        for file in (ROOT / "runtime").rglob("*.py")
        if file.name != "__init__.py"
    }
    assert sources <= set(imported)
    for verb in ("run", "selftest", "inspect", "bench", "doctor"):
        assert verb in run("-m", "edgewise.runtime", "--help")
    assert "ok" in run("-m", "edgewise.runtime", "doctor")
    assert "pass" in run("-m", "edgewise.runtime", "selftest", bundle_folder)
    assert "within" in run(ROOT / "benchmarks" / "import_footprint.py", "--repeats", "3")
