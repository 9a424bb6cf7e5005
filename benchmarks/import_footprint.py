"""Time and memory of importing the device runtime, each in a fresh process.

    python benchmarks/import_footprint.py [--python INTERPRETER] [--repeats N]

The figures that count are those of an environment with the base install alone; `--python` names its
interpreter. Prints the interpreter's own start beside it, since resident memory includes it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STATEMENTS = {
    "interpreter alone": "pass",
    "import edgewise.runtime": "import edgewise.runtime",
    "from edgewise.runtime import Session": "from edgewise.runtime import Session",
    "... and onnxruntime": "from edgewise.runtime import Session; import onnxruntime",
}
LIMIT_SECONDS = 0.25
LIMIT_MB = 90.0
JUDGED = "import edgewise.runtime"

PROBE = """
import json, sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
with open("/proc/self/status") as status:
    kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
from importlib.util import find_spec
print(json.dumps({{
    "seconds": seconds,
    "mb": kilobytes / 1024,
    "importable": [name for name in ("torch", "onnx") if find_spec(name) is not None],
}}))
"""


def measure(python: str, statement: str, repeats: int) -> dict[str, object]:
    """Median seconds and resident megabytes over fresh processes, outside any source tree."""
    runs = []
    with tempfile.TemporaryDirectory() as elsewhere:
        for _ in range(repeats):
            done = subprocess.run(
                [python, "-c", PROBE.format(statement=statement)],
                check=True,
                capture_output=True,
                text=True,
                cwd=elsewhere,
            )
            runs.append(json.loads(done.stdout))
    return {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "mb": statistics.median(run["mb"] for run in runs),
        "importable": runs[0]["importable"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    python = str(Path(options.python).absolute())
    print(f"{'statement':40} {'seconds':>8} {'resident':>10}")
    figures = {}
    for name, statement in STATEMENTS.items():
        figures[name] = found = measure(python, statement, options.repeats)
        print(f"{name:40} {found['seconds']:8.3f} {found['mb']:7.1f} MB")
    judged = figures[JUDGED]
    importable = judged["importable"]
    print(f"torch and onnx: {f'{importable} can be imported here' if importable else 'not importable here'}")
    within = judged["seconds"] <= LIMIT_SECONDS and judged["mb"] <= LIMIT_MB
    print(f"{JUDGED}: limits {LIMIT_SECONDS} s, {LIMIT_MB:g} MB: {'within' if within else 'BROKEN'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
