"""A build in a process of its own, for a TensorRT that cannot be told to stop: Ctrl-C ends the process.

Builders have a progress monitor since TensorRT 10; one of 8.6 returns when it is done, after minutes, and
Python sees no signal before. A builder that crashes or runs out of memory takes this process alone with it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from dataclasses import replace
from typing import Any

from edgewise.exporter.engines.compile import Compiled, CompileJob, compile_graph, silent
from edgewise.runtime.contract.manifest import Target
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.errors import BuildError, EdgewiseError

_START = f"from {__name__} import serve; serve()"
_PHASE, _DONE, _REFUSED, _BROKEN = "phase", "done", "refused", "broken"


def compile_apart(target: Target, job: CompileJob) -> Compiled:
    """`compile_graph` in a new process, with the installed TensorRT of a target.

    Raises:
        BuildError: As `compile_graph`, or the process ended without an answer.
        BackendError: As `compile_graph`.
        KeyboardInterrupt: Ctrl-C, at once; the process is ended.
    """
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # nothing of the working folder is imported
    process = subprocess.Popen(
        [sys.executable, "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin as questions:
            pickle.dump((target, replace(job, report=silent)), questions)
        while True:
            kind, said = pickle.load(process.stdout)
            if kind == _DONE:
                return said
            if kind == _PHASE:
                job.report(said)
            elif kind == _REFUSED:
                error, what, where, hint = said
                raise error(what, where=where, hint=hint)
            else:
                raise RuntimeError(said)
    except (EOFError, OSError):
        raise _ended(process.wait(), job.where) from None
    finally:
        process.kill()
        process.wait()


def _ended(code: int, where: str) -> BuildError:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    memory = "is the memory full? Close other programs, or limit the builder with --workspace"
    return BuildError(
        f"the builder's process ended {how}, without an answer",
        where=where,
        hint=memory if code == -signal.SIGKILL else "what it printed before may say why",
    )


def serve() -> None:
    """Answer one job: read from standard input, answer on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer

    def answer(kind: str, said: Any) -> None:
        pickle.dump((kind, said), answers)
        answers.flush()

    try:
        target, job = pickle.load(sys.stdin.buffer)
        job = replace(job, report=lambda phase: answer(_PHASE, phase))
        answer(_DONE, compile_graph(import_tensorrt(target, verb="build"), job))
    except EdgewiseError as error:
        answer(_REFUSED, (type(error), error.what, error.where, error.hint))
    except Exception:
        answer(_BROKEN, traceback.format_exc())
