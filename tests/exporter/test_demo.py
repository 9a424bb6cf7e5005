from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from edgewise.exporter.demo.demo import DETECTOR, EVALUATION_SCENES, MODELS, PAGE, POSES, run_demo, summary
from edgewise.exporter.demo.page import SCENES_SHOWN
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.system.errors import EdgewiseError, MissingExtraError


@pytest.mark.slow(seconds=200, reason="export, calibration, three engines, a run and parity on 32 scenes")
def test_the_whole_way_once(tmp_path: Path) -> None:
    """With one model, the cheapest; the others go the same way."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    steps: list[str] = []
    console = Console(record=True, width=160, quiet=True)
    made = run_demo(
        tmp_path / "demo", models=[DETECTOR], replace=False, progress=steps.append, console=console
    )
    (model,) = made.models
    assert any(step.startswith(DETECTOR) for step in steps)
    assert model.report.passed
    assert model.report_page.is_file()
    model.bundle.verify()
    assert [record.key.precision for record in model.engines] == list(Precision)
    assert model.engines[-1].realised.layers.get("int8", 0) > 10
    realised = {entry.precision: entry.realised for entry in model.bundle.manifest.precisions}
    assert all(realised[precision] for precision in Precision)
    overlays = sorted((model.results / "overlay").iterdir())
    assert len(overlays) == EVALUATION_SCENES
    frames = sorted((made.scenes / "images").iterdir())
    drawn, plain = cv2.imread(str(overlays[0])).astype(int), cv2.imread(str(frames[0])).astype(int)
    assert np.abs(drawn - plain).mean() > 0.5
    assert json.loads((model.results / "results.json").read_text())
    page = (made.folder / PAGE).read_text()
    assert DETECTOR in page
    assert POSES not in page
    assert "a check of graph and numbers, not a fast engine" in page
    assert "nan" not in page.split("</table>")[0]
    assert page.count("data:image/jpeg") == SCENES_SHOWN * 2
    shown = Console(record=True, width=200, file=io.StringIO())
    shown.print(summary(made))
    assert "edgewise run" in shown.export_text()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], f"the demo shows {', '.join(MODELS)}, not nothing"),
        (["yolact-r50"], "not yolact-r50"),
        ([POSES], f"{POSES} looks at the people that {DETECTOR} finds"),
    ],
)
def test_models_that_it_cannot_show_are_refused(tmp_path: Path, models: list[str], message: str) -> None:
    with pytest.raises(EdgewiseError, match=message):
        run_demo(tmp_path / "demo", models=models, replace=False, progress=print, console=Console(quiet=True))
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("mine")
    with pytest.raises(EdgewiseError, match="exists already"):
        run_demo(tmp_path, replace=False, progress=print, console=Console(quiet=True))
    with pytest.raises(EdgewiseError, match=r"did not write there \(letters\)"):
        run_demo(tmp_path, replace=True, progress=print, console=Console(quiet=True))
    assert (tmp_path / "letters").read_text() == "mine"


def test_without_the_compiler_it_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.exporter.demo import demo

    def absent(*arguments: object, **options: object) -> None:
        raise MissingExtraError("demo", "rtx")

    monkeypatch.setattr(demo, "import_tensorrt", absent)
    with pytest.raises(MissingExtraError, match=r"\[rtx\]"):
        run_demo(tmp_path / "demo", replace=False, progress=print, console=Console(quiet=True))
    assert not (tmp_path / "demo").exists()
