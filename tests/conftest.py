"""Marks and limits that hold for the whole suite.

A test that is not marked `slow` may take 2 s, a slow one 20 s; one that needs more says how much and why:
`@pytest.mark.slow(seconds=60, reason="...")`. What counts is the processor time of the call, in this process,
its threads and the children it waited for: two threads count twice. A slow or busy processor is allowed for:
the limits grow with the time that a fixed piece of work takes there, and double for what that does not see.
Fixtures are left out: what many tests share is no single one's cost. `--durations=N` lists the dearest.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

# Two cores: a second thread pool beside the running one only makes both slower.
os.environ.setdefault("OMP_NUM_THREADS", "2")
# Threads that spin while they wait would count as the test's work, and the more the busier the machine is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A suite started in the background inherits an ignored Ctrl-C, and so would the commands it interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOM = 2.0
"""What limits are multiplied by besides: shared memory and caches slow a test more than a loop."""
SPENT = "processor seconds"
"""Name of the property that a report carries."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("fast_seconds", "processor time that a test may take", default="2")
    parser.addini("slow_seconds", "processor time that a test marked slow may take", default="20")
    parser.addini(
        "yardstick_seconds", "time of the yardstick on a quiet processor; 0: no room", default="0.02"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("slow")
        if marker is not None and bool(marker.kwargs) and not set(marker.kwargs) == {"seconds", "reason"}:
            raise pytest.UsageError(f"{item.nodeid}: slow takes seconds=N together with reason='...'")
    # Dearest files first: processes that share them (--no-loadscope-reorder) then end at about the same time.
    limits: Counter[Path] = Counter()
    for item in items:
        limits[item.path] += _limit(item)[0]
    items.sort(key=lambda item: -limits[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("network") is not None and "network" not in item.config.option.markexpr:
        pytest.skip("fetches files; run it by -m network")
    if item.get_closest_marker("gpu") is not None and (reason := _no_gpu()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    before = _processor_seconds()
    yield
    spent = _processor_seconds() - before
    item.user_properties.append((SPENT, spent))
    limit, words = _limit(item)
    if spent > limit and spent > limit * _allowance(item.config):
        pytest.fail(f"took {spent:.1f} s of processor time; {words} may take {limit:g}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.getoption("durations")
    spent = [
        (value, report.nodeid)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == SPENT
    ]
    if count is None or not spent:
        return
    terminalreporter.section(f"dearest {count or 'of all'} tests by {SPENT}")
    for value, name in sorted(spent, reverse=True)[: count or None]:
        terminalreporter.write_line(f"{value:7.2f}s {name}")


def _processor_seconds() -> float:
    """User and system time so far, of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _allowance(config: pytest.Config) -> float:
    """How much more than its limit a test may take on this processor, as it is now; at least ROOM."""
    quiet = float(config.getini("yardstick_seconds"))
    if not quiet:
        return 1.0
    begun = time.process_time()
    for _ in range(3):
        sum(number * number for number in range(100_000))
    return ROOM * max(1.0, (time.process_time() - begun) / quiet)


def _limit(item: pytest.Item) -> tuple[float, str]:
    """What a test may take, and what kind of test that is."""
    marker = item.get_closest_marker("slow")
    if marker is None:
        return float(item.config.getini("fast_seconds")), "a test that is not marked slow"
    if "seconds" in marker.kwargs:
        return float(marker.kwargs["seconds"]), "this test"
    return float(item.config.getini("slow_seconds")), "a slow test"


def _no_gpu() -> str:
    """Why GPU tests cannot run here, or an empty string where they can."""
    try:
        import pycuda.driver as cuda
    except ImportError:
        return "pycuda is not installed"
    try:
        cuda.init()
    except cuda.Error as error:
        return f"no CUDA device: {error}"
    return "" if cuda.Device.count() else "no CUDA device"
