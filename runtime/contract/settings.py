"""One door for what a user may set of a manifest when it is run: fields of its postprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from edgewise.runtime.contract.check import check
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.system.documents import decode_json
from edgewise.runtime.system.errors import ManifestError

PREFIX = "postprocess."


def with_settings(manifest: Manifest, settings: Mapping[str, str]) -> Manifest:
    """The manifest with fields of its postprocessing replaced.

    Args:
        settings: Field, as `postprocess.flip_test`, to value as JSON text (`true`, `0.4`), or as a plain
            word.

    Raises:
        ManifestError: A field that the kind does not have or that names an output, or a value that does not
            fit.
    """
    if not settings:
        return manifest
    spec = manifest.postprocess
    fields = {field.name: field for field in msgspec.structs.fields(cast(Any, spec))}
    settable = sorted(set(fields) - set(spec.output_fields))
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        field = name.removeprefix(PREFIX)
        if not name.startswith(PREFIX) or field not in settable:
            raise ManifestError(
                f"{name!r} cannot be set",
                where=manifest.name,
                hint=f"what can: {', '.join(PREFIX + known for known in settable)}",
            )
        try:
            changes[field] = msgspec.convert(_plain(value), fields[field].type)
        except msgspec.ValidationError as error:
            raise ManifestError(f"{name} cannot be {value!r}: {error}", where=manifest.name) from None
    changed = msgspec.structs.replace(
        manifest, postprocess=msgspec.structs.replace(cast(Any, spec), **changes)
    )
    check(changed)
    return changed


def _plain(value: str) -> Any:
    try:
        return decode_json(value, object, ManifestError)
    except ManifestError:
        return value
