"""Ctrl-C and what service managers send: held back where they must be, left alone where they are ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from edgewise.exporter.engines.watch import interruptible
from edgewise.runtime.system.interruption import INTERRUPTS, deferred_interrupt, interrupt_on_termination


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As a terminal starts a program; one that started under nohup ignores SIGHUP."""
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    for number in INTERRUPTS:
        interrupts = number is signal.SIGINT
        signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", INTERRUPTS)
def test_each_is_an_interrupt_and_waits_for_the_end_of_a_frame(number: signal.Signals) -> None:
    interrupt_on_termination()
    with pytest.raises(KeyboardInterrupt):
        send(number)
    done: list[str] = []

    def write_a_frame() -> None:
        with deferred_interrupt():
            send(number)
            send(number)
            done.append("frame")

    with pytest.raises(KeyboardInterrupt):
        write_a_frame()
    assert done == ["frame"]
    with pytest.raises(KeyboardInterrupt):
        send(number)


@pytest.mark.parametrize("number", INTERRUPTS)
def test_a_build_is_asked_to_stop(number: signal.Signals) -> None:
    interrupt_on_termination()
    asked: list[BaseException | None] = []

    def build() -> None:
        with interruptible() as request:
            send(number)
            asked.append(request.reason)

    with pytest.raises(KeyboardInterrupt):
        build()
    assert isinstance(asked[0], KeyboardInterrupt)


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt_on_termination()
    with deferred_interrupt():
        send(signal.SIGHUP)
    send(signal.SIGHUP)
