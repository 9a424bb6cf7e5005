"""The table of all models: complete, of one piece with its JSON, and honest about what failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from benchmarks.zoo import PAGE, Row, prove_apart, read_rows, table, with_table, write_rows
from edgewise.models import registry
from edgewise.runtime.contract.manifest import Precision

WITHOUT_A_ROW = (
    "yolact-plus-r50",
    "yolact-plus-r101",
    "retinanet-r50-v2",
    "centernet-r18",
    "centernet-r101",
    "centernet-dla34",
    "cornernet-hg104",
    "cornernet-tiny",
    "centernet-triplets-52",
    "centernet-triplets-104",
    "centernet-triplets-tiny",
    "mask-rcnn-r50-v2",
    "mask-rcnn-r50-detectron2",
    "faster-rcnn-r50-v1",
    "faster-rcnn-r50-v2",
    "faster-rcnn-r50-detectron2",
    "keypoint-rcnn-r50-v1",
    "keypoint-rcnn-r50-detectron2",
    "densepose-r50-s1x",
    "densepose-r50-s1x-legacy",
    "deeppose-r50",
    "pfld",
    "mobilenetv2-gdconv",
    "pose-resnet50-256x192",
    "pose-resnet50-384x288",
    "hrnet-w32-256x192",
    "hrnet-w32-384x288",
    "hrnet-w48-256x192",
    "hrnet-w48-384x288",
    "hrnet-w32-256x192-dark",
    "hrnet-w32-384x288-dark",
    "hrnet-w48-384x288-dark",
    "hrnet-w18-face",
    "retinaface-mnet025",
    "retinaface-mnet025-relu",
    "retinaface-r50",
)
"""Models that `make zoo` has not gone through yet; `docs/zoo.md` points here."""


def test_every_model_has_its_row_and_none_failed() -> None:
    rows = read_rows()
    expected = [name for name in registry.names() if name not in WITHOUT_A_ROW]
    assert list(rows) == expected, (
        "refresh with `make zoo MODELS='NAME ...'`; a row ends its place in the list"
    )
    assert {name: row.failure for name, row in rows.items() if row.failure} == {}
    for row in rows.values():
        assert list(row.engines) == [precision.value for precision in Precision]
        assert row.relative_error <= 1e-4
        assert row.differing <= 1e-4


def test_the_pages_table_is_the_jsons() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, list(read_rows().values())) == page


def test_rows_are_exchanged_one_by_one(tmp_path: Path) -> None:
    rows = read_rows()
    first, second = list(rows)[:2]
    page, file = tmp_path / "zoo.md", tmp_path / "zoo.json"
    page.write_text("before\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n")
    failed = msgspec.structs.replace(rows[second], engines={}, failure="no memory left")
    write_rows({second: failed, "of another time": rows[first], first: rows[first]}, file, page)
    assert read_rows(file) == {first: rows[first], second: failed}
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "no memory left" in text
    widths = {line.count("|") for line in table(list(read_rows(file).values())).splitlines()}
    assert len(widths) == 1


@pytest.fixture
def unknown_elsewhere() -> Iterator[str]:
    """A model that only this process knows."""
    entry = replace(registry.find("yolact-tiny"), name="here-only")
    registry.register(entry)
    yield entry.name
    registry.unregister(entry.name)


@pytest.mark.slow
def test_a_model_that_fails_has_a_row(unknown_elsewhere: str) -> None:
    said: list[str] = []
    row = prove_apart(unknown_elsewhere, said.append)
    assert isinstance(row, Row)
    assert "unknown model 'here-only'" in row.failure
    assert said
