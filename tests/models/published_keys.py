"""Keys and shapes of the tensors in the published checkpoints, as recorded in `keys/`."""

from __future__ import annotations

import ast
import gzip
from pathlib import Path

_FOLDER = Path(__file__).parent / "keys"

KEYS = sorted(path.name.removesuffix(".tsv.gz") for path in _FOLDER.glob("*.tsv.gz"))
"""Models of the registry with a table."""


def published_table(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape, in the file's order."""
    text = gzip.decompress((_FOLDER / f"{name}.tsv.gz").read_bytes()).decode()
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return {key: tuple(ast.literal_eval(shape)) for key, shape in rows}
