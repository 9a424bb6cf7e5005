"""The device verbs as a user meets them: output, exit status, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer

from edgewise.runtime.command import cli
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.system.errors import SourceError
from edgewise.runtime.system.ownership import MARKER

from .conftest import bright_frame, detector

Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edgewise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Run a verb in this process through the console script's own entry: (status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgewise", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(cli, "console", cli.Console(width=200))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, value in enumerate((200, 0, 120)):
        cv2.imwrite(str(folder / f"p{index}.png"), bright_frame(value))
    return folder


def write_video(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, (96, 64))
    for _ in range(frames):
        writer.write(bright_frame())
    writer.release()
    return path


def only_panel(error: str) -> str:
    """The text of stderr, which must be exactly one panel."""
    assert error.count("╭─ error") == 1
    assert "Traceback" not in error
    return " ".join(error.replace("│", " ").split())


def test_run_on_an_image_prints_its_instances(edgewise: Verb, bundle_folder: Path, pictures: Path) -> None:
    status, out, _ = edgewise("run", bundle_folder, pictures / "p0.png")
    assert status == 0
    assert "bright" in out
    assert "8.0, 8.0, 48.0, 56.0" in out
    assert not (pictures.parent / "out").exists()


def test_run_on_a_folder_writes_overlays_and_results(
    edgewise: Verb, bundle_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, _, _ = edgewise("run", bundle_folder, pictures, "-o", out)
    assert status == 0
    assert sorted(os.listdir(out)) == [MARKER, "images.json", "overlay", "results.json"]
    assert sorted(path.name for path in (out / "overlay").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    results = json.loads((out / "results.json").read_text())
    assert [(record["image_id"], record["category_id"]) for record in results] == [
        (0, 3),
        (0, 7),
        (2, 3),
        (2, 7),
    ]


def test_the_threshold_filters_what_is_written(
    edgewise: Verb, bundle_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert edgewise("run", bundle_folder, pictures, "-o", out, "--no-overlay", "--threshold", "0.5")[0] == 0
    assert [record["image_id"] for record in json.loads((out / "results.json").read_text())] == [0]
    assert not (out / "overlay").exists()


def test_run_on_a_video_writes_a_video(edgewise: Verb, bundle_folder: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", 9)
    out = tmp_path / "out"
    status, text, _ = edgewise("run", bundle_folder, clip, "-o", out, "--no-coco")
    assert status == 0
    assert "9 frames" in text
    assert sorted(os.listdir(out)) == [MARKER, "overlay.mp4"]
    assert cv2.VideoCapture(str(out / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 9
    status, text, _ = edgewise("run", bundle_folder, clip, "--limit", 4)
    assert "4 frames" in text


def test_a_corrupt_picture_costs_itself_alone(
    edgewise: Verb, bundle_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "p1.png").write_bytes(b"junk")
    (pictures / "p9.png").write_bytes(b"junk")
    status, text, _ = edgewise("run", bundle_folder, pictures, "-o", tmp_path / "out")
    assert status == 0
    assert "2 frames" in text
    assert "skipped 2: p1.png (the image is corrupt, or no image), p9.png" in text
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [image["file_name"] for image in images] == ["p0.png", "p1.png", "p2.png", "p9.png"]
    assert ["skipped" in image for image in images] == [False, True, False, True]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {record["image_id"] for record in results} == {0, 2}


@pytest.fixture
def exact_bundle(bundle_folder: Path) -> Path:
    """A bundle that takes frames of 64x96 alone, as many do that were exported for one camera."""
    manifest = json.loads((bundle_folder / "manifest.json").read_text())
    manifest["preprocess"] = {"kind": "as-is", "size": [32, 48]}
    (bundle_folder / "manifest.json").write_text(json.dumps(manifest))
    return bundle_folder


def test_a_picture_that_the_model_does_not_take_costs_itself_alone(
    edgewise: Verb, exact_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sizes"
    folder.mkdir()
    for name, size in (("a", (40, 48)), ("b", (32, 48)), ("c", (48, 32)), ("d", (32, 48))):
        cv2.imwrite(str(folder / f"{name}.png"), bright_frame(200, size))
    status, text, _ = edgewise("run", exact_bundle, folder, "-o", tmp_path / "out")
    assert status == 0
    assert "2 frames" in text
    assert "skipped 2: a.png (the frame is 40 x 48 pixels" in text
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert {image["file_name"]: "skipped" in image for image in images} == {
        "a.png": True,
        "b.png": False,
        "c.png": True,
        "d.png": False,
    }
    assert edgewise("run", exact_bundle, folder, "--strict")[0] == 1
    for name in "bd":
        (folder / f"{name}.png").unlink()
    status, _, error = edgewise("run", exact_bundle, folder, "-o", tmp_path / "none")
    assert status == 1
    assert "not one of 2 images can be used; a.png: the frame is 40 x 48" in only_panel(error)
    assert not (tmp_path / "none").exists()
    clip = write_video(tmp_path / "clip.mp4", 3)
    assert edgewise("run", exact_bundle, clip)[0] == 1


def test_strict_ends_at_the_first_corrupt_picture_and_leaves_nothing(
    edgewise: Verb, bundle_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "p1.png").write_bytes(b"junk")
    status, _, error = edgewise("run", bundle_folder, pictures, "-o", tmp_path / "out", "--strict")
    assert status == 1
    assert "corrupt" in only_panel(error)
    assert not (tmp_path / "out").exists()


def test_a_video_that_ends_early_is_finished_and_it_is_said(
    edgewise: Verb, bundle_folder: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 20, (96, 64))
    for _ in range(40):
        writer.write(bright_frame())
    writer.release()
    whole = clip.read_bytes()
    clip.write_bytes(whole[: whole.index(b"movi") + (len(whole) - whole.index(b"movi")) // 2])
    status, text, _ = edgewise("run", bundle_folder, clip, "-o", tmp_path / "out")
    assert status == 0
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert f"ended after {len(images)} of 40 announced frames" in text
    assert edgewise("run", bundle_folder, clip, "--strict")[0] == 1


def test_earlier_results_are_kept_unless_forced(
    edgewise: Verb, bundle_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("run", bundle_folder, pictures, "-o", tmp_path / "out")
    assert edgewise(*arguments)[0] == 0
    status, _, error = edgewise(*arguments)
    assert status == 1
    assert "already holds" in only_panel(error)
    assert edgewise(*arguments, "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "gone", "x.png"), "no such bundle"),
        (("run", "{bundle}", "gone.png"), "no such file or folder"),
        (("run", "{bundle}", "{bundle}/models"), "holds no image"),
        (("run", "{bundle}", "{bundle}/manifest.json"), "neither an image nor a video"),
        (("run", "{bundle}", "{bundle}/goldens/000.png", "--precision", "int8"), "no int8 model"),
        (("run", "{bundle}", "{bundle}/goldens/000.png", "--provider", "npu"), "no provider"),
        (("run", "{bundle}", "{bundle}/goldens/000.png", "--segment", "10min"), "with --output"),
        (("run", "{bundle}", "{bundle}/goldens/000.png", "--segment", "10"), "is no time"),
        (("selftest", "{bundle}", "--backend", "tensorrt"), "no fp32 model"),
        (("selftest", "{bundle}/models"), "no manifest.json"),
        (("inspect", "{bundle}/manifest.json"), "which is a folder"),
        (("bench", "{bundle}", "--image", "gone.png"), "cannot be read"),
    ],
)
def test_wrong_inputs_end_in_one_panel(
    edgewise: Verb, bundle_folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, _, error = edgewise(*(text.replace("{bundle}", str(bundle_folder)) for text in arguments))
    assert status == 1
    assert message in only_panel(error)


def test_a_changed_byte_ends_every_verb(edgewise: Verb, bundle_folder: Path) -> None:
    model = bundle_folder / "models" / "fp32.onnx"
    data = bytearray(model.read_bytes())
    data[100] ^= 1
    model.write_bytes(data)
    for verb in ("selftest", "inspect", "bench"):
        status, _, error = edgewise(verb, bundle_folder)
        assert status == 1
        assert "not the file that was exported" in only_panel(error)


def test_usage_errors_exit_with_two(edgewise: Verb, bundle_folder: Path) -> None:
    assert edgewise("run", bundle_folder)[0] == 2
    assert edgewise("run", bundle_folder, "x.png", "--precision", "int4")[0] == 2
    assert edgewise("fly")[0] == 2


def test_selftest_passes_and_fails(edgewise: Verb, make_bundle: Callable[..., Path]) -> None:
    path = make_bundle(models={Precision.FP32: detector(), Precision.INT8: detector(score_scale=0.5)})
    status, out, error = edgewise("selftest", path)
    assert status == 1
    assert "FAIL" in out
    assert "int8" in only_panel(error)
    status, out, _ = edgewise("selftest", path, "--precision", "fp32")
    assert status == 0
    assert "FAIL" not in out


def test_inspect_shows_the_manifest(edgewise: Verb, bundle_folder: Path) -> None:
    status, out, _ = edgewise("inspect", bundle_folder)
    assert status == 0
    for text in (
        "hand-built",
        "image uint8 [1, 32, 48, 3]",
        "prototype-instances",
        "models/fp32.onnx",
        "bright",
    ):
        assert text in out


def test_bench_times_every_stage(edgewise: Verb, bundle_folder: Path) -> None:
    status, out, _ = edgewise("bench", bundle_folder, "--runs", 5, "--warm-up", 1, "--threads", 1)
    assert status == 0
    for text in ("preprocess", "inference", "postprocess", "total", "p95", "5 runs"):
        assert text in out


def test_doctor_lists_what_the_runtime_needs(edgewise: Verb) -> None:
    status, out, _ = edgewise("doctor")
    assert status == 0
    for text in ("numpy", "OpenCV", "GStreamer", "ONNX Runtime", "TensorRT", "pycuda", "Processor"):
        assert text in out


def test_errors_of_the_system_are_one_panel(capsys: pytest.CaptureFixture[str]) -> None:
    def full_disk() -> None:
        raise OSError(28, "No space left on device", "results.json")

    with pytest.raises(SystemExit) as caught:
        cli.guard(full_disk)
    assert caught.value.code == 1
    assert "No space left on device" in only_panel(capsys.readouterr().err)


def test_markup_in_messages_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise SourceError("no [bold]image[/bold]", where="a[b].png")

    with pytest.raises(SystemExit):
        cli.guard(fail)
    error = only_panel(capsys.readouterr().err)
    assert "[bold]image[/bold]" in error
    assert "a[b].png" in error


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    application = typer.Typer()

    @application.command()
    def wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["edgewise"])
    with pytest.raises(SystemExit) as caught:
        cli.main_of(application)()
    assert caught.value.code == 130


def test_defects_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.guard(lambda: 1 / 0)


def test_a_long_run_is_published_in_parts(edgewise: Verb, bundle_folder: Path, tmp_path: Path) -> None:
    clip, out = write_video(tmp_path / "clip.mp4", 5), tmp_path / "out"
    # Less than any frame takes: each is a part.
    arguments = ("run", bundle_folder, clip, "-o", out, "--segment", "0.0000001s")
    assert edgewise(*arguments)[0] == 0
    parts = [f"part-{number:06d}" for number in range(5)]
    assert sorted(os.listdir(out)) == parts
    for number, part in enumerate(parts):
        (image,) = json.loads((out / part / "images.json").read_text())
        assert image["id"] == number
        assert len(json.loads((out / part / "results.json").read_text())) == 2
        assert cv2.VideoCapture(str(out / part / "overlay.mp4")).read()[0]
    # The next run goes on behind them; what a killed part left goes.
    (out / ".part-000005.edgewise-dead" / "new").mkdir(parents=True)
    assert edgewise(*arguments)[0] == 0
    assert sorted(os.listdir(out)) == [f"part-{number:06d}" for number in range(10)]


def test_a_short_run_is_one_part(edgewise: Verb, bundle_folder: Path, tmp_path: Path) -> None:
    clip, out = write_video(tmp_path / "clip.mp4", 5), tmp_path / "out"
    assert edgewise("run", bundle_folder, clip, "-o", out, "--segment", "1h")[0] == 0
    assert os.listdir(out) == ["part-000000"]
    assert len(json.loads((out / "part-000000" / "images.json").read_text())) == 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_complete_partial_result(
    bundle_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A real process, a real signal, while frames are being written."""
    clip = write_video(tmp_path / "clip.mp4", 6000)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgewise.runtime", "run", bundle_folder, clip, "-o", out, "--threads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in tmp_path.glob(".out.edgewise-*/new/images.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert sorted(os.listdir(out)) == [
        MARKER,
        "images.partial.json",
        "overlay.partial.mp4",
        "results.partial.json",
    ]
    assert sorted(os.listdir(tmp_path)) == ["bundle", "clip.mp4", "out"]
    images = json.loads((out / "images.partial.json").read_text())
    results = json.loads((out / "results.partial.json").read_text())
    assert 0 < len(images) < 6000
    assert len(results) == 2 * len(images)
    held = cv2.VideoCapture(str(out / "overlay.partial.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)
    assert held == len(images)


def test_python_dash_m_works_without_the_console_script(bundle_folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "i.png"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    done = subprocess.run(
        [sys.executable, "-m", "edgewise.runtime", "run", bundle_folder, tmp_path / "gone.png"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no such file" in only_panel(done.stderr)
