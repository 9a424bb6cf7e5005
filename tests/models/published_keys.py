"""Keys and shapes of the tensors in the published checkpoints, as recorded in `keys/`."""

from __future__ import annotations

import ast
import gzip
from pathlib import Path


def published_table(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape, in the file's order."""
    text = gzip.decompress((Path(__file__).parent / "keys" / f"{name}.tsv.gz").read_bytes()).decode()
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return {key: tuple(ast.literal_eval(shape)) for key, shape in rows}
