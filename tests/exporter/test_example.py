from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.walk.session import Session

EXAMPLE = Path(__file__).parents[2] / "examples" / "export_your_module.py"


def test_the_exported_module_finds_spots(spots_bundle: Bundle) -> None:
    frame = np.full((256, 320, 3), 128, np.uint8)
    frame[42:82, 66:106] = (20, 20, 230)  # red
    frame[150:200, 200:250] = (230, 20, 20)  # blue
    with Session.open(spots_bundle) as session:
        result = session(frame)
    shown = result[result.scores >= 0.1]
    names = [result.labels[index].name for index in shown.classes]
    assert sorted(names) == ["blue", "red"]
    red = shown.boxes[names.index("red")]
    centre = (red[:2] + red[2:]) / 2
    np.testing.assert_allclose(centre, (86, 62), atol=8)


@pytest.mark.slow
def test_the_example_runs_as_documented(spots_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "spots.bundle"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {folder}\n"
    written = Bundle.open(folder)
    written.verify()
    assert written.manifest == spots_bundle.manifest, "another process writes the same bytes"


@pytest.mark.slow
def test_the_example_without_an_argument_says_how(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "usage" in done.stderr
