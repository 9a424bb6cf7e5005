"""The names that the TensorRT backend uses, on the real wheel of TensorRT-RTX; needs no GPU."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from edgewise.runtime.contract.manifest import DType, Target
from edgewise.runtime.engines.tensorrt_api import (
    ERROR,
    INFO,
    VERBOSE,
    has_int64,
    import_tensorrt,
    make_logger,
    manifest_dtype,
)
from edgewise.runtime.system.errors import BackendError, MissingExtraError

RUNTIME_NAMES = {
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": (
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_shape",
        "create_execution_context",
    ),
    "IExecutionContext": ("set_input_shape", "set_tensor_address", "execute_async_v3"),
    "TensorIOMode": ("INPUT", "OUTPUT"),
}


@pytest.fixture(scope="module")
def trt() -> ModuleType:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    return import_tensorrt(Target.TENSORRT_RTX, verb="run")


@pytest.mark.parametrize(("owner", "names"), RUNTIME_NAMES.items())
def test_every_name_of_the_backend_exists(trt: ModuleType, owner: str, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(getattr(trt, owner), name)]
    assert not missing


def test_every_manifest_dtype_has_its_tensorrt_type(trt: ModuleType) -> None:
    known = {manifest_dtype(value) for value in trt.DataType.__members__.values()}
    assert known - {None} == set(DType)
    assert manifest_dtype(trt.DataType.BF16) is None
    assert has_int64(trt)


def test_logger_hands_on_every_severity(trt: ModuleType) -> None:
    heard: list[tuple[str, str]] = []
    logger = make_logger(trt, lambda severity, message: heard.append((severity, message)))
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert not parser.parse(b"not a model")
    severities = {severity for severity, _ in heard}
    assert ERROR in severities
    logger.log(trt.ILogger.Severity.INFO, "hello")
    logger.log(trt.ILogger.Severity.VERBOSE, "whisper")
    assert heard[-2:] == [(INFO, "hello"), (VERBOSE, "whisper")]


def test_missing_module_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"edgewise run.*\[rtx\]"):
        import_tensorrt(Target.TENSORRT_RTX, verb="run")


def test_module_that_does_not_load_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    (tmp_path / "tensorrt.py").write_text("import libraries_that_are_not_here\n")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BackendError, match="does not load"):
        import_tensorrt(Target.TENSORRT, verb="run")
