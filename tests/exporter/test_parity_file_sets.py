"""Every lowered file of a bundle is in some set, and an engine is compared with the file of its release."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import msgspec
import pytest

from edgewise.exporter.parity.file_sets import distinct, file_sets, installed_set, stage_name
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import GraphFile, Manifest, Precision, Target


def of(target: Target, path: str, since: str = "", precision: Precision = Precision.INT8) -> GraphFile:
    return GraphFile(target=target, precision=precision, path=f"models/{path}.onnx", since=since)


@pytest.fixture
def manifest(spots_bundle: Bundle) -> Manifest:
    """Two graphs, one of which has files of its own for older releases."""
    (graph,) = spots_bundle.manifest.graphs.values()
    plain = [of(target, "plain", precision=Precision.FP32) for target in Target]
    files = {
        "key": (
            *plain,
            of(Target.ONNXRUNTIME, "key-u8"),
            of(Target.TENSORRT, "key-half", "10"),
            of(Target.TENSORRT, "key-single"),
            of(Target.TENSORRT_RTX, "key-half"),
        ),
        "cur": (*plain, *(of(target, "cur") for target in Target)),
    }
    graphs = {name: msgspec.structs.replace(graph, files=own) for name, own in files.items()}
    return msgspec.structs.replace(spots_bundle.manifest, graphs=graphs)


def test_older_files_are_a_set_of_their_own(manifest: Manifest) -> None:
    sets = file_sets(manifest)
    found = {stage_name(own, sets): own.paths for own in distinct(sets)}
    assert found == {
        "fp32": {"key": "models/plain.onnx", "cur": "models/plain.onnx"},
        "int8": {"key": "models/key-u8.onnx", "cur": "models/cur.onnx"},
        "int8.tensorrt": {"key": "models/key-half.onnx", "cur": "models/cur.onnx"},
        "int8.tensorrt-before-10": {"key": "models/key-single.onnx", "cur": "models/cur.onnx"},
    }
    listed = {file.path for graph in manifest.graphs.values() for file in graph.files}
    assert {path for own in sets for path in own.paths.values()} == listed


@pytest.mark.parametrize(("release", "before"), [("8.6.2", "10"), ("10.3.0", ""), ("11.4.1.2", "")])
def test_the_installed_release_says_which_set_its_engine_was_built_from(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, release: str, before: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=release))
    assert installed_set(file_sets(manifest), Target.TENSORRT, Precision.INT8).before == before


def test_files_that_only_a_later_onnxruntime_reads_are_left_out(manifest: Manifest) -> None:
    files = (of(Target.ONNXRUNTIME, "native", "99"), of(Target.ONNXRUNTIME, "older"))
    graphs = {name: msgspec.structs.replace(graph, files=files) for name, graph in manifest.graphs.items()}
    sets = file_sets(msgspec.structs.replace(manifest, graphs=graphs))
    assert [(stage_name(own, sets), set(own.paths.values())) for own in sets] == [
        ("int8", {"models/older.onnx"})
    ]
