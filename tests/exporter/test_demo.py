from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from edgewise.exporter.demo import EVALUATION_SCENES, run_demo, summary
from edgewise.runtime.errors import EdgewiseError, MissingExtraError
from edgewise.runtime.manifest import Precision


@pytest.mark.slow
def test_the_whole_way_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    steps: list[str] = []
    console = Console(record=True, width=160, quiet=True)
    made = run_demo(tmp_path / "demo", replace=False, progress=steps.append, console=console)
    assert made.report.passed
    made.bundle.verify()
    assert [record.key.precision for record in made.engines] == list(Precision)
    assert all(record.realised.layers.get("int8", 0) > 40 for record in made.engines[-1:])
    overlays = sorted((made.folder / "results" / "overlay").iterdir())
    assert len(overlays) == EVALUATION_SCENES
    frames = sorted((made.folder / "scenes-evaluation" / "images").iterdir())
    drawn, plain = cv2.imread(str(overlays[0])).astype(int), cv2.imread(str(frames[0])).astype(int)
    assert np.abs(drawn - plain).mean() > 1
    assert json.loads((made.folder / "results" / "results.json").read_text())
    assert (made.folder / "parity" / "parity.html").is_file()
    realised = {entry.precision: entry.realised for entry in made.bundle.manifest.precisions}
    assert all(realised[precision] for precision in Precision)
    Console(quiet=True).print(summary(made))


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("mine")
    with pytest.raises(EdgewiseError, match="exists already"):
        run_demo(tmp_path, replace=False, progress=print, console=Console(quiet=True))
    with pytest.raises(EdgewiseError, match="something else than a demo"):
        run_demo(tmp_path, replace=True, progress=print, console=Console(quiet=True))
    assert (tmp_path / "letters").read_text() == "mine"


def test_without_the_compiler_it_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.exporter import demo

    def absent(*arguments: object, **options: object) -> None:
        raise MissingExtraError("demo", "rtx")

    monkeypatch.setattr(demo, "import_tensorrt", absent)
    with pytest.raises(MissingExtraError, match=r"\[rtx\]"):
        run_demo(tmp_path / "demo", replace=False, progress=print, console=Console(quiet=True))
    assert not (tmp_path / "demo").exists()
