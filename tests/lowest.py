"""The floors of `pyproject.toml` are true: `make test-lowest`.

    python tests/lowest.py FOLDER

Makes a bundle of each family's smallest model with this environment, then installs the base package twice
into fresh environments: the lowest versions on Python 3.10, which JetPack 6 has, and the newest on Python
3.13. Each opens the command and reruns every bundle's golden samples. A Python that is not on this machine
is left out, and the output says so.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOWEST, NEWEST = "python3.10", "python3.13"


def make_bundles(folder: Path) -> list[Path]:
    """One bundle for ONNX Runtime of every family's micro config with random weights."""
    import torch

    from edgewise.exporter.way.export import ExportOptions, export_bundle
    from edgewise.models import registry
    from edgewise.models.measuring.tasks import task_of
    from edgewise.models.scenes.dataset import write_dataset
    from edgewise.runtime.contract.manifest import Provenance, Target

    scenes = folder / "scenes"
    if not scenes.exists():
        write_dataset(scenes, 4, 1, 96)
    families = {entry.family.name: entry for entry in map(registry.find, registry.names())}
    made: list[Path] = []
    for name, entry in families.items():
        vocabulary = task_of(entry.task).dataset.open(scenes).vocabulary
        micro = dataclasses.replace(entry, config=entry.family.micro).fit(vocabulary)
        torch.manual_seed(3)
        module = micro.deploy(micro.build().eval())
        draft = micro.manifest(vocabulary, Provenance(definition=f"registry:{name}"))
        options = ExportOptions(replace=True, device_only=True, targets=(Target.ONNXRUNTIME,))
        made.append(export_bundle({"main": module}, draft, folder / f"{name}.bundle", options).path)
    return made


def base_requirements(lowest: bool) -> list[str]:
    """The base dependencies of `pyproject.toml`, at their floors or as they stand."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    stated = re.findall(r'"([^"]+)"', found[1])
    return [one.replace(">=", "==") if lowest else one for one in stated]


def find(python: str) -> str | None:
    """An interpreter of that name that runs: on the path, or one that pyenv keeps."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (shutil.which(python), *map(str, sorted(kept.glob(f"*/bin/{python}")))):
        if (
            candidate
            and not subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode
        ):
            return candidate
    return None


def try_base_install(python: str, folder: Path, bundles: list[Path], *, lowest: bool) -> None:
    """Install the base package for an interpreter and rerun the bundles' golden samples with it."""
    interpreter = find(python)
    if interpreter is None:
        print(f"left out: {python} does not run on this machine", flush=True)
        return
    environment = folder / python
    subprocess.run([interpreter, "-m", "venv", "--clear", str(environment)], check=True)
    pip = [
        str(environment / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, *base_requirements(lowest)], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    edgewise = str(environment / "bin" / "edgewise")
    for verb in (["--help"], ["doctor"], *(["selftest", str(bundle)] for bundle in bundles)):
        done = subprocess.run([edgewise, *verb], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(
                f"{python}: edgewise {' '.join(verb)} ends with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        print(f"{python}, {'lowest' if lowest else 'newest'} versions: edgewise {' '.join(verb)}", flush=True)


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    bundles = make_bundles(folder)
    try_base_install(LOWEST, folder, bundles, lowest=True)
    try_base_install(NEWEST, folder, bundles, lowest=False)


if __name__ == "__main__":
    main()
