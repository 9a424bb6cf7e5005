"""Only listed, unchanged, plain files inside the folder are opened."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import GraphFile, Precision, Target
from edgewise.runtime.system.errors import BackendError, BundleError, ManifestError

MODEL = "models/fp32.onnx"


def flip_a_byte(path: Path, *, keep_times: bool = False) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    if keep_times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_reads_what_the_manifest_lists(bundle_folder: Path) -> None:
    bundle = Bundle.open(bundle_folder)
    assert bundle.read(MODEL) == (bundle_folder / MODEL).read_bytes()
    assert bundle.file(MODEL) == bundle_folder / MODEL
    entry = bundle.graph_entry("main", Target.ONNXRUNTIME, Precision.FP32)
    assert bundle.file(entry.path) == bundle_folder / MODEL
    assert bundle.graph_bytes("main", Target.ONNXRUNTIME, Precision.FP32) == bundle.read(MODEL)
    bundle.verify()


def test_the_file_for_a_release_of_the_runtime(bundle_folder: Path) -> None:
    bundle = Bundle.open(bundle_folder)
    (only,) = [file for file in bundle.manifest.graphs["main"].files if file.target is Target.ONNXRUNTIME]
    newer = msgspec.structs.replace(only, path="models/newer.onnx", since="1.25")

    def path(*files: GraphFile, release: str | None) -> str:
        graph = msgspec.structs.replace(bundle.manifest.graphs["main"], files=files)
        manifest = msgspec.structs.replace(bundle.manifest, graphs={"main": graph})
        own = replace(bundle, manifest=manifest)
        return own.graph_entry("main", Target.ONNXRUNTIME, Precision.FP32, release).path

    cases = (("1.23.2", only), ("1.9.0", only), ("1.25.0", newer), ("2.0", newer), (None, newer))
    for release, expected in cases:
        assert path(newer, only, release=release) == expected.path
    ten = msgspec.structs.replace(newer, since="10")
    for release, expected in (("8.6.2", only), ("10.3.0.30", ten), ("10.13.3.9", ten), ("11.4.1", ten)):
        assert path(ten, only, release=release) == expected.path
    with pytest.raises(BackendError, match=r"needs onnxruntime 1\.25, 1\.23\.2 is installed"):
        path(newer, release="1.23.2")


def test_a_changed_byte_is_refused_by_every_way_in(bundle_folder: Path) -> None:
    bundle = Bundle.open(bundle_folder)
    flip_a_byte(bundle_folder / MODEL)
    for attempt in (lambda: bundle.read(MODEL), lambda: bundle.file(MODEL), bundle.verify):
        with pytest.raises(BundleError, match="not the file that was exported") as caught:
            attempt()
        assert MODEL in str(caught.value)


def test_read_hashes_the_bytes_it_gives_even_where_times_and_size_are_forged(bundle_folder: Path) -> None:
    bundle = Bundle.open(bundle_folder)
    bundle.file(MODEL)
    flip_a_byte(bundle_folder / MODEL, keep_times=True)
    with pytest.raises(BundleError, match="another SHA-256"):
        bundle.read(MODEL)
    with pytest.raises(BundleError, match="another SHA-256"):
        bundle.verify()


def test_a_file_is_hashed_once_until_it_is_touched(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise.runtime.contract import bundle as module

    calls: list[Path] = []
    real = module.sha256_of

    def counted(path: Path) -> str:
        calls.append(path)
        return real(path)

    monkeypatch.setattr(module, "sha256_of", counted)
    bundle = Bundle.open(bundle_folder)
    bundle.file(MODEL)
    bundle.file(MODEL)
    assert len(calls) == 1
    os.utime(bundle_folder / MODEL, ns=(1, 1))
    bundle.file(MODEL)
    assert len(calls) == 2


@pytest.mark.parametrize("size_change", [b"", b"x"])
def test_a_shorter_or_longer_file_is_refused(bundle_folder: Path, size_change: bytes) -> None:
    data = (bundle_folder / MODEL).read_bytes()
    (bundle_folder / MODEL).write_bytes(data + size_change if size_change else data[:-1])
    with pytest.raises(BundleError, match="bytes instead of"):
        Bundle.open(bundle_folder).read(MODEL)


def test_a_missing_file(bundle_folder: Path) -> None:
    (bundle_folder / MODEL).unlink()
    bundle = Bundle.open(bundle_folder)
    for attempt in (lambda: bundle.read(MODEL), lambda: bundle.file(MODEL), bundle.verify):
        with pytest.raises(BundleError, match="listed but missing"):
            attempt()


def test_a_file_that_is_not_listed_is_not_opened(bundle_folder: Path) -> None:
    (bundle_folder / "extra.onnx").write_bytes(b"extra")
    with pytest.raises(BundleError, match="not listed"):
        Bundle.open(bundle_folder).read("extra.onnx")


def test_links_are_refused_even_to_the_right_bytes(bundle_folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.onnx"
    (bundle_folder / MODEL).rename(elsewhere)
    (bundle_folder / MODEL).symlink_to(elsewhere)
    with pytest.raises(BundleError, match="link"):
        Bundle.open(bundle_folder).read(MODEL)


def test_a_linked_folder_inside_the_bundle_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / "models").rename(tmp_path / "models")
    (bundle_folder / "models").symlink_to(tmp_path / "models")
    with pytest.raises(BundleError, match="link"):
        Bundle.open(bundle_folder).file(MODEL)


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(bundle_folder: Path) -> None:
    (bundle_folder / MODEL).unlink()
    os.mkfifo(bundle_folder / MODEL)
    with pytest.raises(BundleError, match="is not a file"):
        Bundle.open(bundle_folder).read(MODEL)


def test_a_path_that_leaves_the_folder_is_refused(bundle_folder: Path) -> None:
    text = (bundle_folder / "manifest.json").read_text().replace(MODEL, "../secret.onnx")
    (bundle_folder / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="leaves the bundle folder"):
        Bundle.open(bundle_folder)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BundleError, match="is a folder"):
        Bundle.open(file)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_broken_manifest_names_the_file(bundle_folder: Path, text: str) -> None:
    (bundle_folder / "manifest.json").write_text(text)
    with pytest.raises(ManifestError) as caught:
        Bundle.open(bundle_folder)
    assert caught.value.where


def test_a_newer_format_names_its_writer(bundle_folder: Path) -> None:
    plain = msgspec.json.decode((bundle_folder / "manifest.json").read_bytes())
    plain |= {"format": 3, "writer": "edgewise 9.0"}
    (bundle_folder / "manifest.json").write_bytes(msgspec.json.encode(plain))
    with pytest.raises(ManifestError, match=r"format 3, written by edgewise 9\.0"):
        Bundle.open(bundle_folder)


def test_an_absent_precision_says_what_there_is(bundle_folder: Path) -> None:
    bundle = Bundle.open(bundle_folder)
    with pytest.raises(BackendError, match="no int8 model") as caught:
        bundle.graph_bytes("main", Target.ONNXRUNTIME, Precision.INT8)
    assert "onnxruntime fp32" in caught.value.hint
    with pytest.raises(BundleError, match="no graph 'key'"):
        bundle.graph("key")
