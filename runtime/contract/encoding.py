"""Reading and writing `manifest.json`, strictly."""

from __future__ import annotations

from typing import Any

import msgspec

from edgewise.runtime.contract.check import check
from edgewise.runtime.contract.manifest import FORMAT_VERSION, Manifest
from edgewise.runtime.contract.postprocessing import Postprocess, read_postprocess
from edgewise.runtime.system.documents import decode_json
from edgewise.runtime.system.errors import ManifestError


class _Header(msgspec.Struct):
    """The two fields read before anything else, so that a newer file is refused by name."""

    format: int = 1
    writer: str = "an unnamed writer"


def encode(manifest: Manifest) -> bytes:
    """Check and write a manifest as indented UTF-8 JSON.

    Raises:
        ManifestError: A part does not fit, or a value that reading would refuse, such as NaN.
    """
    check(manifest)
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    decode(data)
    return data


def decode(data: bytes) -> Manifest:
    """Read a manifest strictly.

    Raises:
        ManifestError: Not JSON, a newer format, an unknown or ill-typed field, or a broken reference.
    """
    header = decode_json(
        data,
        _Header,
        lambda reason: ManifestError(f"not a manifest: {reason}", hint="export the bundle again"),
    )
    if header.format != FORMAT_VERSION:
        newer = header.format > FORMAT_VERSION
        raise ManifestError(
            f"manifest format {header.format}, written by {header.writer}; this edgewise reads format "
            f"{FORMAT_VERSION}",
            hint="update edgewise on this machine, or export the bundle again with this version"
            if newer
            else "export the bundle again with this version",
        )
    manifest = decode_json(
        data,
        Manifest,
        lambda reason: ManifestError(
            f"the manifest written by {header.writer} does not follow format {FORMAT_VERSION}: {reason}",
            hint="export the bundle again, or correct the manifest",
        ),
        hook=_read,
    )
    check(manifest)
    return manifest


def _read(wanted: type, plain: Any) -> Any:
    """What msgspec does not know by itself: kinds of postprocessing, to which others may be added."""
    if wanted is Postprocess:
        return read_postprocess(plain)
    raise NotImplementedError(wanted)
