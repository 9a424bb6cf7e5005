from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edgewise import models
from edgewise.exporter.cli import app
from edgewise.exporter.way.export import CHECKPOINT
from edgewise.models.checkpoints.checkpoint import load_model
from edgewise.models.scenes import write_dataset
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.system.errors import EdgewiseError, MissingExtraError

PRETRAINED = Path(models.__file__).parent / "pretrained"
VERBS = {
    "run", "selftest", "inspect", "bench", "doctor", "export", "calibrate", "build", "parity", "train",
    "evaluate", "import-checkpoint", "scenes", "demo", "models",
}  # fmt: skip

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from edgewise.exporter.cli import main
sys.argv = ["edgewise", *{arguments!r}]
main()
"""


def edgewise(*arguments: str | Path) -> str:
    """Run a verb inside this process; an EdgewiseError comes out as such."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    code = """
import sys
from edgewise.exporter.cli import app
import typer.main
print(sorted(typer.main.get_command(app).commands))
heavy = {"torch", "onnx", "onnxruntime", "onnxsim", "matplotlib", "safetensors", "tensorrt"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(sorted(VERBS)), "[]"]


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb: str) -> None:
    assert "Usage" in edgewise(verb, "--help")


@pytest.mark.slow
def test_without_torch_one_line_names_the_extra() -> None:
    code = WITHOUT.format(absent={"torch"}, arguments=["export", "model.safetensors", "-o", "b"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "needs the [export] extra (torch is not installed)" in " ".join(done.stderr.split())
    assert "pip install" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", "{bundle}", "{bundle}"],
        ["parity", "{bundle}", "--dataset", "{bundle}"],
        ["train", "yolact-tiny", "--data", "d", "-o", "o"],
        ["evaluate", "c", "d"],
        ["import-checkpoint", "f", "--model", "m", "-o", "o"],
        ["demo", "-o", "{bundle}-demo"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_workstation_verb_names_its_extra(
    arguments: list[str], spots_bundle: Bundle, tmp_path: Path
) -> None:
    absent = {"torch", "onnx", "faster_coco_eval"}
    filled = [argument.format(bundle=spots_bundle.path) for argument in arguments]
    code = WITHOUT.format(absent=absent, arguments=filled)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"`edgewise {arguments[0]}` needs the [export] extra" in " ".join(done.stderr.split())


def test_an_unknown_module_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.exporter.command.verb import needs

    with pytest.raises(ModuleNotFoundError), needs("export"):
        raise ModuleNotFoundError("No module named 'edgewise.typo'", name="edgewise.typo")
    with pytest.raises(MissingExtraError, match=r"\[rtx\]"), needs("build"):
        raise ModuleNotFoundError(name="tensorrt_rtx_bindings.inner")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "{tmp}/none.safetensors", "-o", "{tmp}/b"], "no such checkpoint"),
        (["export", "{tmp}/text.safetensors", "-o", "{tmp}/b"], "not a safetensors file"),
        (["export", "{checkpoint}", "-o", "{tmp}/full"], "exists already"),
        (["export", "{checkpoint}", "-o", "{tmp}/full", "--force"], "did not write there"),
        (["export", "{checkpoint}", "-o", "{tmp}/b", "--validation", "{tmp}"], "needs --calibration"),
        (["calibrate", "{tmp}/none", "{tmp}"], "no such bundle"),
        (["export", "{checkpoint}", "-o", "{tmp}/b", "--budget", "int8.speed=1"], "is no limit of a budget"),
        (["calibrate", "{bundle}", "{tmp}/full"], "no image to calibrate on"),
        (["calibrate", "{bundle}", "{tmp}/none"], "no such folder of calibration images"),
        (["export", "{checkpoint}", "-o", "{tmp}/b", "--calibration", "{tmp}/full"], "no image to calibrate"),
        (["build", "{tmp}/none", "--target", "tensorrt-rtx", "--precision", "fp32"], "no such bundle"),
        (["train", "yolact-huge", "--data", "{tmp}", "-o", "{tmp}/c"], "unknown model 'yolact-huge'"),
        (["evaluate", "{tmp}/none.safetensors", "{tmp}"], "no such checkpoint"),
        (["evaluate", "{checkpoint}", "{tmp}/none.json"], "no such annotation file"),
        (["import-checkpoint", "{tmp}/none", "--model", "yolact-huge", "-o", "{tmp}/c"], "unknown model"),
        (
            ["import-checkpoint", "{tmp}/none", "--model", "yolact-r50", "-o", "{tmp}/full/x"],
            "exists already",
        ),
    ],
)  # fmt: skip
def test_wrong_inputs_are_one_error_and_leave_nothing(
    arguments: list[str], message: str, seeded_tiny: Path, spots_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("precious")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(EdgewiseError, match=message):
        edgewise(
            *(
                argument.format(tmp=tmp_path, checkpoint=seeded_tiny, bundle=spots_bundle.path)
                for argument in arguments
            )
        )
    spots_bundle.verify()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_scenes_writes_a_dataset(tmp_path: Path) -> None:
    assert "wrote 2 scenes" in edgewise("scenes", tmp_path / "s", "--count", "2", "--size", "64")
    assert (tmp_path / "s" / "instances.json").is_file()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("yolact-tiny", ("mask AP", "AP75", "star")),
        ("upsnet-tiny", ("PQ", "SQ", "PQ_st", "sky")),
        ("hourglass-tiny", ("PCK@0.1", "OKS AP", "nose")),
    ],
)
def test_evaluate_prints_the_figures_of_the_models_task(
    name: str, shown: tuple[str, ...], tmp_path: Path
) -> None:
    scenes = write_dataset(tmp_path / "scenes", 3, 8, 96)
    checkpoint = PRETRAINED / f"{name}.safetensors"
    moved = (scenes / "images").rename(tmp_path / "pictures")
    printed = edgewise("evaluate", checkpoint, scenes, "--limit", "2", "--images", moved)
    assert "on 2 images" in printed
    assert all(part in printed for part in shown)


@pytest.mark.slow(seconds=40, reason="exports a model of the registry")
def test_export_then_selftest(seeded_tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny.bundle"
    said = edgewise(
        "export", seeded_tiny, "-o", folder, "--target", "onnxruntime", "--device-only", "--name", "mine",
        "--licence", "terms of mine", "--budget", "int8.matched=0.9",
    )  # fmt: skip
    manifest = Bundle.open(folder).manifest
    assert (manifest.name, manifest.licence) == ("mine", "terms of mine")
    assert manifest.budget(Precision.INT8).matched_fraction == 0.9
    assert "onnxruntime fp32" in said
    assert "tensorrt" not in said
    assert "self test passed: fp32" in said
    edgewise("inspect", folder)


OF_OTHER_TOOLS = {"--upgrade", "--system-site-packages"}


def test_every_option_that_a_hint_names_exists() -> None:
    group: Any = typer.main.get_command(app)
    options = [option for verb in group.commands.values() for option in verb.params]
    known = {text for option in options for text in (*option.opts, *option.secondary_opts)}
    house = Path(models.__file__).parent.parent
    named = {
        option
        for room in ("runtime", "calibration", "models", "exporter")
        for file in (house / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
        for option in re.findall(r"(?:^|[\s`]|(?<!var)\()(--[a-z][a-z-]*)", node.value)
    }
    assert len(named) > 20
    assert named <= known | OF_OTHER_TOOLS


def test_models_lists_what_set_takes_and_set_takes_it(seeded_tiny: Path, tmp_path: Path) -> None:
    assert "upsnet-r50-cityscapes" in edgewise("models")
    listed = edgewise("models", "yolact-tiny")
    for text in ("input_size", "[192, 192]", "decoding.greedy_rounds", "cross-class-fast"):
        assert text in listed
    arguments = ("export", seeded_tiny, "-o", tmp_path / "set.bundle", "--target", "onnxruntime")
    with pytest.raises(EdgewiseError, match="'input_sise' cannot be set") as caught:
        edgewise(*arguments, "--set", "input_sise=64,96")
    assert "did you mean input_size?" in caught.value.hint
    with pytest.raises(EdgewiseError, match="greedy_rounds cannot be '1'"):
        edgewise(*arguments, "--set", "decoding.greedy_rounds=1")
    assert not (tmp_path / "set.bundle").exists()


@pytest.mark.slow
def test_an_export_with_a_config_set_carries_it(seeded_tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "set.bundle"
    settings = ("--set", "input_size=64,96", "--set", "decoding.slots=7")
    edgewise("export", seeded_tiny, "-o", out, "--target", "onnxruntime", *settings)
    bundle = Bundle.open(out)
    assert bundle.manifest.preprocess.size == (64, 96)
    assert selftest(bundle).passed
    inside = load_model(bundle.file(CHECKPOINT))
    assert inside.entry.config.decoding.slots == 7
    assert inside.sha256 == bundle.manifest.provenance.checkpoint_sha256


def test_the_script_points_here() -> None:
    from importlib.metadata import entry_points

    (script,) = (entry for entry in entry_points(group="console_scripts") if entry.name == "edgewise")
    assert script.value == "edgewise.exporter.cli:main"
    assert isinstance(app, typer.Typer)
