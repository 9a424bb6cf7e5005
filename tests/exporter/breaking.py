"""Break a file of a bundle so that nothing but a comparison can notice: the manifest lists the new hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx

from edgewise.runtime.contract.bundle import MANIFEST, Bundle
from edgewise.runtime.contract.encoding import encode
from edgewise.runtime.contract.manifest import FileEntry


def exchange(bundle: Path, path: str, data: bytes) -> None:
    """Replace a file of a bundle."""
    (bundle / path).write_bytes(data)
    manifest = Bundle.open(bundle).manifest
    entry = FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    files = tuple(entry if old.path == path else old for old in manifest.files)
    (bundle / MANIFEST).write_bytes(encode(msgspec.structs.replace(manifest, files=files)))


def edit(bundle: Path, path: str, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change an ONNX file of a bundle in place."""
    model = onnx.load(bundle / path)
    change(model)
    exchange(bundle, path, model.SerializeToString())
