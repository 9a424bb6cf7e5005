"""The versions of the tools that made a bundle, for its provenance."""

from __future__ import annotations

import platform
from importlib import metadata

_TOOLS = ("edgewise", "torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "numpy")


def tool_versions() -> dict[str, str]:
    """Package name -> installed version, and the interpreter's."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _TOOLS}}


def writer() -> str:
    """`edgewise <version>`, as the manifest's `writer` says it."""
    return f"edgewise {metadata.version('edgewise')}"
