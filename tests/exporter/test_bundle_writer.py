from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from edgewise.exporter.bundle import writer as bundle_writer
from edgewise.exporter.bundle.model_files import name_model_files
from edgewise.exporter.bundle.writer import place, update_bundle, write_bundle
from edgewise.exporter.engines.build import with_realised
from edgewise.exporter.precision.calibration_images import CalibrationRequest
from edgewise.exporter.precision.quantise import calibrate_bundle
from edgewise.exporter.way.export import ExportOptions, export_bundle, export_checkpoint
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import GraphFile, Manifest, Precision, RealisedPrecision, Target
from edgewise.runtime.engines.cache import EngineKey, EngineRecord
from edgewise.runtime.system.errors import BuildError, EdgewiseError, ExportError, ManifestError
from edgewise.runtime.system.publishing import writing


@pytest.fixture
def bundle(spots_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that a test may change."""
    folder = tmp_path / "copy.bundle"
    shutil.copytree(spots_bundle.path, folder)
    return Bundle.open(folder)


def with_file(manifest: Manifest, path: str) -> Manifest:
    graph = manifest.graphs["main"]
    others = tuple(file for file in graph.files if file.precision is not Precision.INT8)
    entry = GraphFile(target=Target.TENSORRT, precision=Precision.INT8, path=path)
    changed = msgspec.structs.replace(graph, files=(*others, entry))
    return msgspec.structs.replace(manifest, graphs={"main": changed})


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_listed_with_its_hash(spots_bundle: Bundle) -> None:
    spots_bundle.verify()
    listed = {entry.path for entry in spots_bundle.manifest.files}
    assert files_of(spots_bundle.path) == {*listed, "manifest.json"}


def test_an_existing_folder_is_not_touched(spots_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    with pytest.raises(EdgewiseError, match="exists already"):
        write_bundle(tmp_path / "precious", spots_bundle.manifest, {})
    with pytest.raises(EdgewiseError, match=r"did not write there \(file\)"):
        write_bundle(tmp_path / "precious", spots_bundle.manifest, {}, replace=True)
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_a_missing_file_leaves_nothing(spots_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="used but not listed"):
        write_bundle(tmp_path / "new.bundle", spots_bundle.manifest, {"models/canonical.onnx": b"x"})
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_changed_since_it_was_opened_is_not_updated(bundle: Bundle) -> None:
    path = place(bundle, "models/tensorrt.int8.onnx", b"first")
    first = update_bundle(bundle, with_file(bundle.manifest, path), {path: b"first"})
    with pytest.raises(ExportError, match="somebody else has changed the bundle"):
        update_bundle(bundle, bundle.manifest, {})
    assert Bundle.open(bundle.path).manifest == first.manifest


HOLDER = """
import pathlib, sys
from edgewise.runtime.system.publishing import writing
with writing(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_whoever_changes_a_bundle_is_told_who_writes_it(bundle: Bundle, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(bundle.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    request = CalibrationRequest(images=tmp_path)
    try:
        for change in (
            lambda: update_bundle(bundle, bundle.manifest, {}),
            lambda: write_bundle(bundle.path, bundle.manifest, {}, replace=True),
            lambda: calibrate_bundle(bundle, request),
            lambda: export_bundle({}, bundle.manifest, bundle.path, ExportOptions(replace=True)),
            lambda: export_checkpoint(tmp_path, bundle.path, ExportOptions(replace=True)),
        ):
            with pytest.raises(EdgewiseError, match=f"written by process {holder.pid}"):
                change()
    finally:
        holder.communicate(b"\n")


def engine_record(bundle: Bundle) -> EngineRecord:
    entry = bundle.graph_entry("main", Target.TENSORRT, Precision.FP32)
    sha256 = next(file.sha256 for file in bundle.manifest.files if file.path == entry.path)
    return EngineRecord(
        key=EngineKey(
            graph="main",
            target=Target.TENSORRT,
            precision=Precision.FP32,
            model_sha256=sha256,
            source_sha256=sha256,
            tool_version="10",
            compute_capabilities=("sm86",),
            shapes={},
            writer="edgewise tests",
        ),
        bundle=bundle.manifest.name,
        sha256="0" * 64,
        size=1,
        realised=RealisedPrecision(target=Target.TENSORRT, tool="tensorrt 10", device="a GPU", layers={}),
        build_seconds=0.0,
        built_at="2026-01-01T00:00:00",
    )


def test_a_build_waits_for_a_calibration_and_keeps_what_it_wrote(bundle: Bundle) -> None:
    waiting = threading.Event()
    path = place(bundle, "models/tensorrt.int8.onnx", b"calibrated")
    with ThreadPoolExecutor(1) as pool:
        with writing(bundle.path):
            built = pool.submit(with_realised, bundle, engine_record(bundle), lambda text: waiting.set())
            assert waiting.wait(30)
            update_bundle(bundle, with_file(bundle.manifest, path), {path: b"calibrated"})
        noted = built.result()
    noted.verify()
    assert noted.read(path) == b"calibrated"
    (fp32,) = (entry for entry in noted.manifest.precisions if entry.precision is Precision.FP32)
    assert [entry.device for entry in fp32.realised] == ["a GPU"]


def test_an_engine_of_a_model_that_was_replaced_is_not_noted(bundle: Bundle) -> None:
    record = engine_record(bundle)
    key = msgspec.structs.replace(record.key, model_sha256="1" * 64)
    with pytest.raises(BuildError, match="was replaced while its engine was built"):
        with_realised(bundle, msgspec.structs.replace(record, key=key))


BETWEEN_TWO_RENAMES = """
import os, sys
from pathlib import Path
from edgewise.exporter.bundle.writer import write_bundle
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.system import publishing

publishing.exchange = lambda one, other: False
rename = os.rename


def killing(source, destination):
    if Path(destination) == bundle.path:
        os.kill(os.getpid(), 9)
    rename(source, destination)


bundle = Bundle.open(sys.argv[1])
os.rename = killing
files = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
write_bundle(bundle.path, bundle.manifest, files, replace=True)
"""


def test_a_reader_finds_the_bundle_that_a_kill_left_without_its_name(bundle: Bundle) -> None:
    done = subprocess.run([sys.executable, "-c", BETWEEN_TWO_RENAMES, str(bundle.path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not bundle.path.exists()
    Bundle.open(bundle.path).verify()
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]


def test_an_update_adds_a_file_and_removes_the_one_it_replaces(bundle: Bundle) -> None:
    path = place(bundle, "models/tensorrt.int8.onnx", b"first")
    assert path == "models/tensorrt.int8.onnx"
    first = update_bundle(bundle, with_file(bundle.manifest, path), {path: b"first"})
    first.verify()
    again = place(first, "models/tensorrt.int8.onnx", b"second")
    assert again != path
    second = update_bundle(first, with_file(first.manifest, again), {again: b"second"})
    second.verify()
    assert second.read(again) == b"second"
    assert path not in files_of(bundle.path)
    assert "source/exported.onnx" in files_of(bundle.path)


def test_an_update_keeps_what_the_user_put_into_the_folder(bundle: Bundle) -> None:
    path = place(bundle, "models/extra.onnx", b"first")
    (bundle.path / "models" / "left-over.onnx").write_bytes(b"of a killed update")
    (bundle.path / "notes.txt").write_text("the user's own")
    update_bundle(bundle, with_file(bundle.manifest, path), {path: b"first"})
    assert "notes.txt" in files_of(bundle.path)
    assert "models/left-over.onnx" not in files_of(bundle.path)


def test_the_same_bytes_keep_their_name(bundle: Bundle) -> None:
    path = place(bundle, "models/tensorrt.int8.onnx", b"first")
    first = update_bundle(bundle, with_file(bundle.manifest, path), {path: b"first"})
    assert place(first, "models/tensorrt.int8.onnx", b"first") == path


def test_a_file_in_use_is_never_overwritten(bundle: Bundle) -> None:
    with pytest.raises(ExportError, match="in use by the present manifest"):
        update_bundle(bundle, bundle.manifest, {"models/canonical.onnx": b"other"})
    Bundle.open(bundle.path).verify()


def test_a_failed_update_leaves_the_old_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(bundle.path)

    def fail(manifest: Manifest) -> bytes:
        raise ManifestError("no")

    monkeypatch.setattr(bundle_writer, "encode", fail)
    with pytest.raises(ManifestError):
        update_bundle(bundle, with_file(bundle.manifest, "models/new.onnx"), {"models/new.onnx": b"new"})
    assert files_of(bundle.path) == before
    Bundle.open(bundle.path).verify()


KILLED = """
import sys
import time
from pathlib import Path
from edgewise.exporter.bundle import writer as bundle_writer
from edgewise.runtime.contract.bundle import Bundle
bundle = Bundle.open(sys.argv[1])
def wait(manifest):
    print("reached", flush=True)
    time.sleep(60)
bundle_writer.encode = wait
if sys.argv[2] == "update":
    bundle_writer.update_bundle(bundle, bundle.manifest, {"models/new.onnx": b"new"})
    sys.exit("not reached")
bundle_writer.write_bundle(Path(sys.argv[3]), bundle.manifest, {"models/canonical.onnx": b"x"})
"""


@pytest.mark.parametrize("what", ["update", "write"])
def test_a_kill_before_the_manifest_leaves_the_old_state(bundle: Bundle, tmp_path: Path, what: str) -> None:
    destination = tmp_path / "killed.bundle"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(bundle.path), what, str(destination)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"reached\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    assert not destination.exists()
    Bundle.open(bundle.path).verify()
    path = place(bundle, "models/tensorrt.int8.onnx", b"later")
    update_bundle(bundle, with_file(bundle.manifest, path), {path: b"later"}).verify()
    assert files_of(bundle.path) == {*(entry.path for entry in Bundle.open(bundle.path).manifest.files),
                                     "manifest.json"}  # fmt: skip


def test_equal_bytes_are_stored_once() -> None:
    lowered = {
        **{(target, Precision.FP32): {"": b"same"} for target in Target},
        (Target.ONNXRUNTIME, Precision.INT8): {"": b"unsigned"},
        (Target.TENSORRT, Precision.INT8): {"": b"signed"},
        (Target.TENSORRT_RTX, Precision.INT8): {"": b"signed"},
    }
    named = name_model_files("main", lowered)
    assert dict(named.files) == {
        "models/fp32.onnx": b"same",
        "models/onnxruntime.int8.onnx": b"unsigned",
        "models/tensorrt.int8.onnx": b"signed",
    }
    assert len(named.entries) == 6
    assert {e.path for e in named.entries if e.target is Target.TENSORRT_RTX} == {
        "models/fp32.onnx",
        "models/tensorrt.int8.onnx",
    }
    assert set(name_model_files("key", lowered).files) >= {"models/key.fp32.onnx"}


def test_a_form_for_older_releases_follows_and_shares_bytes() -> None:
    lowered = {
        (Target.ONNXRUNTIME, Precision.FP32): {"1.25": b"native", "": b"plain"},
        (Target.TENSORRT, Precision.FP32): {"": b"plain"},
        (Target.TENSORRT, Precision.INT8): {"10": b"half", "": b"single"},
        (Target.TENSORRT_RTX, Precision.INT8): {"": b"half"},
    }
    named = name_model_files("main", lowered)
    assert [(entry.target.value, entry.since, entry.path) for entry in named.entries] == [
        ("onnxruntime", "1.25", "models/onnxruntime.fp32.onnx"),
        ("onnxruntime", "", "models/tensorrt.fp32.onnx"),
        ("tensorrt", "", "models/tensorrt.fp32.onnx"),
        ("tensorrt", "10", "models/int8.onnx"),
        ("tensorrt", "", "models/tensorrt-before-10.int8.onnx"),
        ("tensorrt-rtx", "", "models/int8.onnx"),
    ]
    assert sorted(named.files.values()) == [b"half", b"native", b"plain", b"single"]


def test_a_bundle_is_replaced_whole(bundle: Bundle) -> None:
    names = [entry.path for entry in bundle.manifest.files]
    contents = {name: bundle.read(name) for name in names}
    (bundle.path / "models" / "stray").write_text("left over")
    before = os.stat(bundle.path).st_ino
    write_bundle(bundle.path, bundle.manifest, contents, replace=True).verify()
    assert os.stat(bundle.path).st_ino != before
    assert "models/stray" not in files_of(bundle.path)
    (bundle.path / "notes.txt").write_text("mine")
    with pytest.raises(EdgewiseError, match=r"did not write there \(notes.txt\)"):
        write_bundle(bundle.path, bundle.manifest, contents, replace=True)
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]
