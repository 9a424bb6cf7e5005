"""A build in a process of its own, by TensorRT-RTX on the CPU: equal results, errors, Ctrl-C, crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.exporter.engines import build
from edgewise.exporter.engines.apart import compile_apart
from edgewise.exporter.engines.compile import CompileJob, compile_graph
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import DType, Graph, Precision, Target, TensorSpec
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.errors import BuildError

pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")

SHAPE = (1, 8, 8, 8)


def job(operator: str = "Conv", **changes: object) -> CompileJob:
    node = helper.make_node(operator, ["x", "w"][: 2 if operator == "Conv" else 1], ["y"], name="it")
    shape = (1, 8, 6, 6) if operator == "Conv" else SHAPE
    kind = TensorProto.INT64 if operator == "NonZero" else TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "edgewise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "w")] if operator == "Conv" else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    declared = Graph(
        inputs=(TensorSpec(name="x", dtype=DType.FLOAT32, shape=SHAPE),),
        outputs=(TensorSpec(name="y", dtype=DType.FLOAT32, shape=shape),),
    )
    values = {
        "model": model.SerializeToString(),
        "where": "a model",
        "graph": declared,
        "network_flags": ("STRONGLY_TYPED",),
        "compute_capabilities": ("sm86",),
    }
    return CompileJob(**{**values, **changes})  # type: ignore[arg-type]


def test_a_build_apart_is_the_build_here() -> None:
    phases: list[str] = []
    apart = compile_apart(Target.TENSORRT_RTX, job(report=phases.append))
    here = compile_graph(import_tensorrt(Target.TENSORRT_RTX, verb="build"), job())
    assert (apart.weighted, apart.layers) == (here.weighted, here.layers)
    assert len(apart.plan) > 1000
    assert phases[0] == "parsing"


def test_what_tensorrt_refuses_there_is_raised_here() -> None:
    with pytest.raises(BuildError, match="the parser refuses the model") as caught:
        compile_apart(Target.TENSORRT_RTX, job(model=b"no model"))
    assert (caught.value.where, bool(caught.value.hint)) == ("a model", True)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that is started."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


def test_ctrl_c_ends_the_process_at_once(children: list[subprocess.Popen[bytes]]) -> None:
    def press(phase: str) -> None:
        if phase == "parsing":
            threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT)).start()
            signal.pause()

    with pytest.raises(KeyboardInterrupt):
        compile_apart(Target.TENSORRT_RTX, job(report=press))
    (child,) = children
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "ended by SIGSEGV"),
        ("kill -KILL $$", "ended by SIGKILL"),
        ("exit 3", "ended with exit code 3"),
    ],
)
def test_a_builder_that_crashes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nulimit -c 0\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(BuildError, match=message):
        compile_apart(Target.TENSORRT_RTX, job())


def test_a_tensorrt_without_a_monitor_builds_apart(
    spots_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: list[subprocess.Popen[bytes]],
) -> None:
    real = import_tensorrt(Target.TENSORRT_RTX, verb="build")
    older = ModuleType("tensorrt_rtx")
    older.__dict__.update({name: getattr(real, name) for name in dir(real) if name != "IProgressMonitor"})
    monkeypatch.setattr(build, "import_tensorrt", lambda target, verb: older)
    options = build.BuildOptions(compute_capabilities=("sm86",), output=tmp_path / "engines")
    record = build.build_engine(spots_bundle, Target.TENSORRT_RTX, Precision.FP32, options)
    assert record.size > 1000
    assert len(children) == 1
