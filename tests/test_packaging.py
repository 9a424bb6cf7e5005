"""The wheel holds every package and every data file that the code reads."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("runtime", "calibration", "models", "exporter")


@pytest.fixture(scope="module")
def settings() -> str:
    return (ROOT / "pyproject.toml").read_text()


def test_every_package_is_listed(settings: str) -> None:
    """Among the packages: other tables name some of them too."""
    listed = settings.split("\npackages = [", 1)[1].split("]", 1)[0]
    folders = [
        init.parent.relative_to(ROOT) for floor in FLOORS for init in (ROOT / floor).rglob("__init__.py")
    ]
    assert len(folders) >= len(FLOORS)
    missing = [
        name for folder in folders if f'"{(name := ".".join(("edgewise", *folder.parts)))}"' not in listed
    ]
    assert not missing


def test_every_python_file_is_in_a_package() -> None:
    for floor in FLOORS:
        for file in (ROOT / floor).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file
