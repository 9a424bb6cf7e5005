"""What torch's exporter says when it fails, as the construct and the user's own line."""

from __future__ import annotations

import linecache
import os
import re
import traceback
from pathlib import Path

from edgewise.runtime.system.errors import ExportError

LONGEST_REASON = 300
"""Characters of a library's first line that an error repeats; some put a whole graph into one."""


def untranslatable(error: Exception) -> ExportError:
    """What torch's exporter says, as the construct and the line of the module that holds it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    line = next(filter(None, map(_own_line, reversed(chain))), "")
    tool = next((one for one in chain if isinstance(one, ImportError)), None)
    if tool is not None and not line:
        return ExportError(
            f"a tool of the export cannot be imported: {first_line(tool)}",
            where=tool.name or "",
            hint="install versions of torch, onnx and onnxscript that fit each other",
        )
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)  # type: ignore[arg-type]
    return ExportError(
        f"torch.onnx cannot export the module: {first_line(causes[-1])[:LONGEST_REASON]}",
        where=line,
        hint="write the construct with fixed shapes and standard operators (see docs/export.md)",
    )


def _own_line(error: BaseException) -> str:
    """The innermost line outside of libraries: in an error's traceback, in one that it quotes, or in that of
    the traced node that was being translated."""
    frames: list[tuple[str, int]] = []
    said = str(error)
    for frame, number in traceback.walk_tb(error.__traceback__):
        frames.append((frame.f_code.co_filename, number))
        said += str(getattr(frame.f_locals.get("node"), "stack_trace", None) or "")
    quoted = re.findall(r'File "([^"\n]+)", line (\d+)', said)
    for file, number in [*((file, int(number)) for file, number in quoted), *frames][::-1]:
        if not _is_library(file):
            source = linecache.getline(file, number).strip()
            return f"{file}:{number}" + (f": {source}" if source else "")
    return ""


def _is_library(file: str) -> bool:
    path = Path(file)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    ours = path.is_relative_to(Path(__file__).parents[1])
    return bool(installed) or ours or file.startswith("<") or path.is_relative_to(Path(os.__file__).parent)


def first_line(error: BaseException) -> str:
    """The first line of a library's message that says something; the error's type where none does."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
