"""The suite's own limits: a test that takes longer than its mark allows fails, whatever it asserts."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).with_name("conftest.py")

SUITE = """
import subprocess, sys, threading, time
import pytest

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

@pytest.fixture
def dear():
    burn(0.08)

def test_waiting_costs_nothing():
    time.sleep(0.08)

def test_fixtures_are_left_out(dear):
    pass

def test_too_dear():
    burn(0.08)

def test_children_count():
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.08: pass"], check=True)

@pytest.mark.slow
def test_slow():
    burn(0.08)

@pytest.mark.slow
def test_too_slow():
    burn(0.25)

@pytest.mark.slow(seconds=2, reason="states it")
def test_stated():
    burn(0.25)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty suite with these limits; without other plugins, whose imports would count."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makeini(
        "[pytest]\nfast_seconds = 0.05\nslow_seconds = 0.2\nyardstick_seconds = 0\nmarkers = slow: slow\n"
    )
    return pytester


def test_a_test_that_costs_more_than_its_mark_allows_fails(suite: pytest.Pytester) -> None:
    suite.makepyfile(SUITE)
    result = suite.runpytest_inprocess("-p", "no:cacheprovider", "--durations=3", "-rf")
    result.assert_outcomes(passed=4, failed=3)
    failed = {line.split("::")[1].split()[0] for line in result.outlines if line.startswith("FAILED")}
    assert failed == {"test_too_dear", "test_children_count", "test_too_slow"}
    result.stdout.fnmatch_lines(
        ["*s of processor time; a test that is not marked slow may take 0.05", "*dearest 3 tests*"]
    )


def test_more_time_needs_a_reason(suite: pytest.Pytester) -> None:
    suite.makepyfile("import pytest\n\n@pytest.mark.slow(seconds=2)\ndef test_silent(): pass\n")
    result = suite.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.ret is pytest.ExitCode.USAGE_ERROR
    assert "test_silent: slow takes seconds=N together with reason" in result.stderr.str()
