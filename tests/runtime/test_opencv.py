"""An OpenCV that cannot be imported, as the system's beside another NumPy: one panel, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What the binding of OpenCV 4 does when it is loaded: it asks NumPy for an interface, which NumPy 2 refuses
# to what was compiled for NumPy 1, in a page on stderr; the binding then raises a line of its own.
FOR_NUMPY_1 = """
import numpy.core.multiarray as multiarray
try:
    multiarray._ARRAY_API
except (ImportError, AttributeError):
    pass
raise ImportError("numpy.core.multiarray failed to import")
"""
WITHOUT_GL = 'raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")'
ABSENT = "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')"


def edgewise(tmp_path: Path, module: str, binding: str, *arguments: str) -> tuple[int, str, str]:
    """A verb in a process whose OpenCV is `binding`: exit status, stdout and stderr, each as one line."""
    (tmp_path / "cv2.py").write_text(binding)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "400"},
    )
    assert "Traceback" not in done.stderr
    assert done.stderr.count("╭─ error") == 1
    return done.returncode, done.stdout, " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("binding", "said", "commands"),
    [
        (FOR_NUMPY_1, "compiled for another NumPy", ["pip install 'numpy<2'", "opencv-python-headless"]),
        (
            WITHOUT_GL,
            "OpenCV cannot be imported: libGL.so.1",
            ["pip install --upgrade opencv-python-headless"],
        ),
        (ABSENT, "OpenCV is not installed", ["pip install --upgrade opencv-python-headless"]),
    ],
    ids=["numpy", "libGL", "absent"],
)
def test_a_verb_says_what_to_install(tmp_path: Path, binding: str, said: str, commands: list[str]) -> None:
    status, _, error = edgewise(tmp_path, "edgewise.runtime", binding, "run", "bundle", "clip.mp4")
    assert status == 1
    assert said in error
    assert all(command in error for command in commands)


def test_doctor_goes_on_to_the_rest(tmp_path: Path) -> None:
    status, table, error = edgewise(tmp_path, "edgewise.runtime", FOR_NUMPY_1, "doctor")
    assert status == 1
    assert "compiled for another NumPy" in table
    assert "ONNX Runtime" in table
    assert "OpenCV cannot be used" in error
    assert "pip install 'numpy<2'" in error


def test_the_workstation_s_verbs_too(tmp_path: Path) -> None:
    code = "from edgewise.exporter.cli import main; main()"
    (tmp_path / "workstation.py").write_text(code)
    status, _, error = edgewise(
        tmp_path, "workstation", FOR_NUMPY_1, "export", "model.safetensors", "-o", "b"
    )
    assert status == 1
    assert "pip install 'numpy<2'" in error
