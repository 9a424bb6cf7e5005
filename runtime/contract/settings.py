"""One door for what a user may set of a manifest when it is run: fields of its postprocessing."""

from __future__ import annotations

from collections.abc import Mapping

from edgewise.runtime.contract.check import check
from edgewise.runtime.contract.fields import fields_of, with_fields
from edgewise.runtime.contract.manifest import Manifest
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
    outputs = {PREFIX + field for field in spec.output_fields}
    settable = {name for name in fields_of(manifest) if name.startswith(PREFIX)} - outputs
    changed = with_fields(
        manifest, settings, settable, lambda what, hint: ManifestError(what, where=manifest.name, hint=hint)
    )
    check(changed)
    return changed
