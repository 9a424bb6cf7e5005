"""Listening to a build: errors, the layer list, progress, and Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from edgewise.runtime.engines.tensorrt_api import ERROR
from edgewise.runtime.system.interruption import on_interrupt

LAYER_LIST = "Layers:"


@dataclass
class BuildLog:
    """What is worth keeping of a build's messages."""

    errors: list[str] = field(default_factory=list)
    layer_lists: list[str] = field(default_factory=list)

    def listen(self, severity: str, message: str) -> None:
        """Keep errors and layer lists, drop the rest."""
        if severity == ERROR:
            self.errors.append(message.strip())
        elif message.startswith(LAYER_LIST):
            self.layer_lists.append(message)

    def reason(self) -> str:
        """The first error, which is the cause of those behind it."""
        return self.errors[0] if self.errors else "no reason was logged"


@dataclass
class Cancellation:
    """Whether the build shall stop, and why."""

    reason: BaseException | None = None


@contextmanager
def interruptible() -> Generator[Cancellation]:
    """Turn Ctrl-C into a request that the builder sees between two steps.

    An exception inside a callback from C++ would end the process; this raises it after the builder returned.
    """
    request = Cancellation()

    def remember() -> None:
        request.reason = KeyboardInterrupt()

    with on_interrupt(remember):
        yield request
    if request.reason is not None:
        raise request.reason


def make_monitor(trt: Any, report: Callable[[str], None], request: Cancellation) -> Any:
    """An `IProgressMonitor` (TensorRT 10 and later) that reports phases and stops the build on request."""

    def construct(self: Any) -> None:
        trt.IProgressMonitor.__init__(self)

    def start(self: Any, name: str, parent: str | None, steps: int) -> None:
        try:
            report(name)
        except BaseException as error:
            request.reason = request.reason or error

    members = {
        "__init__": construct,
        "phase_start": start,
        "step_complete": lambda self, name, step: request.reason is None,
        "phase_finish": lambda self, name: None,
    }
    return type("BuildMonitor", (trt.IProgressMonitor,), members)()
