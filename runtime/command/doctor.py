"""What is installed on this machine, and what to install for the rest."""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType

from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.system.extras import install_command
from edgewise.runtime.system.opencv import require_opencv
from edgewise.runtime.system.processor import available_cores, has_int8_dot_products, processor_flags


@dataclass(frozen=True)
class Finding:
    """One line of the report. `needed` findings that are not `good` make the runtime unusable."""

    subject: str
    state: str
    good: bool
    advice: str = ""
    needed: bool = False


def examine() -> tuple[Finding, ...]:
    """Look at everything that the runtime can use."""
    return (
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True),
        *(_package(name, module) for name, module in (("numpy", "numpy"), ("msgspec", "msgspec"))),
        *_opencv(),
        *_onnxruntime(),
        _processor(),
        *_tensorrt(),
    )


def _load(module: str) -> ModuleType | str:
    """The module, or why it cannot be imported; native libraries fail in more ways than ImportError."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return "not installed"
    except Exception as error:
        return f"cannot be imported: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _package(name: str, module: str) -> Finding:
    loaded = _load(module)
    if isinstance(loaded, str):
        return Finding(name, loaded, False, f"pip install {name}", needed=True)
    return Finding(name, metadata.version(name), True)


def _opencv() -> tuple[Finding, ...]:
    try:
        require_opencv()
    except EdgewiseError as error:
        return (Finding("OpenCV", error.what, False, error.hint, needed=True),)
    import cv2

    from edgewise.runtime.frames.sources import opencv_has_gstreamer

    version = cv2.__version__
    if opencv_has_gstreamer():
        return (Finding("OpenCV", version, True), Finding("GStreamer", "in this OpenCV", True))
    advice = "only for GStreamer pipelines: the system's python3-opencv in place of pip's"
    return (
        Finding("OpenCV", version, True),
        Finding("GStreamer", "not in this OpenCV", False, advice),
    )


def _onnxruntime() -> tuple[Finding, ...]:
    loaded = _load("onnxruntime")
    if isinstance(loaded, str):
        return (Finding("ONNX Runtime", loaded, False, "pip install onnxruntime", needed=True),)
    providers: list[str] = loaded.get_available_providers()
    short = [name.removesuffix("ExecutionProvider") for name in providers]
    cuda = "CUDAExecutionProvider" in providers
    from edgewise.runtime.contract.bundle import major_minor
    from edgewise.runtime.engines.onnxruntime import DEFORM_CONV_SINCE

    native = major_minor(loaded.__version__) >= major_minor(DEFORM_CONV_SINCE)
    advice = f"before {DEFORM_CONV_SINCE} deformable convolutions (UPSNet) run in a slower form"
    return (
        Finding(
            "ONNX Runtime",
            f"{loaded.__version__} ({', '.join(short)})",
            True,
            "" if native else f"{advice}; Python 3.11 or newer gets it: pip install --upgrade onnxruntime",
        ),
        Finding(
            "ONNX Runtime on CUDA",
            "available" if cuda else "not in this build",
            cuda,
            "" if cuda else "only for --provider cuda: pip install onnxruntime-gpu in place of onnxruntime",
        ),
    )


def _processor() -> Finding:
    flags = processor_flags()
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    have = [flag for flag in known if flag in flags]
    state = f"{available_cores()} cores, {' '.join(have) if have else 'no known vector extension'}"
    advice = "" if has_int8_dot_products() else "no 8-bit dot products: INT8 gains less here"
    return Finding("Processor", state, True, advice)


def _tensorrt() -> tuple[Finding, ...]:
    found: list[Finding] = []
    for subject, module, advice in (
        ("TensorRT", "tensorrt", f"{install_command('tensorrt')}, or NVIDIA's JetPack packages"),
        ("TensorRT-RTX", "tensorrt_rtx_bindings", install_command("rtx")),
        ("pycuda", "pycuda", "pip install pycuda"),
    ):
        loaded = _load(module)
        if isinstance(loaded, str):
            found.append(Finding(subject, loaded, False, f"only for NVIDIA GPUs: {advice}"))
        else:
            found.append(Finding(subject, str(getattr(loaded, "__version__", "installed")), True))
    return tuple(found)
