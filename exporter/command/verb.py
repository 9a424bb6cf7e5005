"""What the workstation's verbs share: the extra that one needs, its steps, its words, common options."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from edgewise.runtime.system.errors import MissingExtraError

console = Console()

EXTRAS = {
    **dict.fromkeys(
        ("torch", "onnx", "onnxscript", "onnxsim", "safetensors", "faster_coco_eval", "jinja2", "matplotlib"),
        "export",
    ),
    "tensorrt": "tensorrt",
    "pycuda": "tensorrt",
    "tensorrt_rtx_bindings": "rtx",
}
"""Top-level module -> the extra that brings it."""

ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the model's config, e.g. input_size=800,1344; may be repeated. "
        "`edgewise models NAME` lists them.",
    ),
]
ForceOption = Annotated[bool, typer.Option(help="Replace what is there.")]


@contextmanager
def needs(verb: str) -> Iterator[None]:
    """Turn the absence of an optional package into one line that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        raise MissingExtraError(verb, EXTRAS[missing], module=missing) from None


@contextmanager
def steps(*, lines: bool = True) -> Iterator[Callable[[str], None]]:
    """Give a function that announces the next step.

    Args:
        lines: Whether each finished step stays on the terminal with its seconds.
    """
    errors = Console(stderr=True)
    current: list[tuple[str, float]] = []

    def finish() -> None:
        if current:
            name, begun = current.pop()
            if lines:
                errors.print(Text(f"{time.perf_counter() - begun:6.1f} s  {name}"), soft_wrap=True)

    with errors.status("starting") as status:

        def announce(name: str) -> None:
            finish()
            current.append((name, time.perf_counter()))
            status.update(name)

        yield announce
        finish()


def say(text: str) -> None:
    console.print(Text(text), soft_wrap=True)
