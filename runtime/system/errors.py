"""Every error a user can cause, under one base class.

An error says what happened, where, and what to do next. The command line prints it in one panel and exits
with status 1; nothing half-written is left behind.
"""

from __future__ import annotations

from edgewise.runtime.system.extras import install_command


class EdgewiseError(Exception):
    """Base of all errors that edgewise raises on purpose.

    Args:
        what: What happened, in one sentence.
        where: The file, tensor, node or option concerned.
        hint: What to do next.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  next:  {self.hint}")
        return "\n".join(lines)


class ManifestError(EdgewiseError):
    """A manifest that cannot be read, or says something that cannot be."""


class BundleError(EdgewiseError):
    """A bundle folder whose files are missing, changed or not listed."""


class SourceError(EdgewiseError):
    """An image, folder, video, camera or stream that cannot be opened or decoded."""


class BackendError(EdgewiseError):
    """An inference engine that is missing, cannot be opened, or gave an impossible output."""


class ResultError(EdgewiseError):
    """Outputs that cannot be turned into the result that the manifest promises."""


class ModelError(EdgewiseError):
    """An unknown model name or a configuration that no definition can be built from."""


class CheckpointError(EdgewiseError):
    """A checkpoint that cannot be read, does not fit the model, or holds NaN weights."""


class DatasetError(EdgewiseError):
    """A dataset that is missing, empty, or whose annotations do not fit its images."""


class CalibrationError(EdgewiseError):
    """Calibration data that is refused, or a table that does not fit the graph."""


class ExportError(EdgewiseError):
    """A step from the training definition to the bundle that failed or changed the numbers."""


class BuildError(EdgewiseError):
    """An engine that could not be built, or was not built in the precision that was asked for."""


class ParityError(EdgewiseError):
    """Two stages that disagree by more than their budget."""


class MissingExtraError(EdgewiseError):
    """A verb that needs an optional dependency which is not installed."""

    def __init__(self, verb: str, extra: str, *, module: str = "") -> None:
        missing = f" ({module} is not installed)" if module else ""
        super().__init__(
            f"`edgewise {verb}` needs the [{extra}] extra{missing}",
            hint=install_command(extra),
        )
