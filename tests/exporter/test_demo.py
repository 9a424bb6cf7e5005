from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from edgewise.exporter.demo.demo import EVALUATION_SCENES, PAGE, run_demo, summary
from edgewise.exporter.demo.page import SCENES_SHOWN
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.system.errors import EdgewiseError, MissingExtraError


@pytest.mark.slow
def test_the_whole_way_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    steps: list[str] = []
    console = Console(record=True, width=160, quiet=True)
    made = run_demo(tmp_path / "demo", replace=False, progress=steps.append, console=console)
    assert [model.bundle.manifest.task for model in made.models] == [
        "instances",
        "panoptic",
        "keypoints",
    ]
    frames = sorted((made.scenes / "images").iterdir())
    for model in made.models:
        assert model.report.passed
        assert model.report_page.is_file()
        model.bundle.verify()
        assert [record.key.precision for record in model.engines] == list(Precision)
        assert model.engines[-1].realised.layers.get("int8", 0) > 10
        realised = {entry.precision: entry.realised for entry in model.bundle.manifest.precisions}
        assert all(realised[precision] for precision in Precision)
        overlays = sorted((model.results / "overlay").iterdir())
        assert len(overlays) == EVALUATION_SCENES
        drawn, plain = cv2.imread(str(overlays[0])).astype(int), cv2.imread(str(frames[0])).astype(int)
        assert np.abs(drawn - plain).mean() > 0.5
    page = (made.folder / PAGE).read_text()
    assert all(model.bundle.manifest.name in page for model in made.models)
    assert "nan" not in page.split("</table>")[0]
    assert page.count("data:image/jpeg") == SCENES_SHOWN * (1 + len(made.models))
    assert json.loads((made.models[0].results / "results.json").read_text())
    people = json.loads((made.models[2].results / "results.json").read_text())
    assert all(len(person["keypoints"]) == 51 for person in people)
    assert json.loads((made.models[1].results / "panoptic.json").read_text())["annotations"]
    Console(quiet=True).print(summary(made))


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("mine")
    with pytest.raises(EdgewiseError, match="exists already"):
        run_demo(tmp_path, replace=False, progress=print, console=Console(quiet=True))
    with pytest.raises(EdgewiseError, match="something else than a demo"):
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
