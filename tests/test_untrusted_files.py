"""Whatever a file holds, whoever reads it ends in its own error, no other library's."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from edgewise.calibration.samples import CalibrationSet
from edgewise.calibration.table import decode_table
from edgewise.exporter.parity.report import decode_report
from edgewise.models.checkpoints.checkpoint import METADATA_KEY, load_checkpoint
from edgewise.models.data.segmentation import CocoRle, decode_segmentation
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.panoptic.dataset import CocoPanoptic
from edgewise.models.tasks.surface.dataset import CocoSurfaces
from edgewise.runtime.contract.encoding import decode
from edgewise.runtime.contract.manifest import ClassLabel, DType, TensorSpec
from edgewise.runtime.engines.tensor_files import read_npz
from edgewise.runtime.pixels.rle import decode_rle
from edgewise.runtime.results.records import read_masks, read_records
from edgewise.runtime.system.errors import EdgewiseError, ResultError
from edgewise.runtime.walk.box_sources import CocoBoxes

PERSON = ClassLabel(id=1, name="person")
DEEP = b"[" * 100_000 + b"]" * 100_000
DOCUMENTS = {
    "nothing": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"writer": "\xff", "images": "\xff"}',
    "not UTF-8 in a list": b'["\xff"]',
    "a deep list": DEEP,
    "deep in a field": b'{"images": %s, "format": 2, "tensors": %s}' % (DEEP, DEEP),
    "deep in an unknown field": b'{"other": %s}' % DEEP,
    "deep in a list": b"[{%s}]" % (b'"segmentation": ' + DEEP),
    "a number of 5000 digits": b"1" * 5000,
    "a number too large for a float": b'[{"bbox": [1e999, 0, 0, 0], "image_id": 1}]',
    "half a surrogate": b'"\\ud800"',
}


def on_file(open_file: Callable[[Path], object], name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return open_file(folder / name)

    return read


def _checkpoint(data: bytes, folder: Path) -> object:
    text = data.decode("utf-8", "replace")
    (folder / "c.safetensors").write_bytes(save({"w": np.zeros(1, np.float32)}, {METADATA_KEY: text}))
    return load_checkpoint(folder / "c.safetensors")


READERS: dict[str, Callable[[bytes, Path], object]] = {
    "manifest": lambda data, _: decode(data),
    "calibration table": lambda data, _: decode_table(data),
    "parity report": lambda data, _: decode_report(data),
    "boxes": on_file(lambda file: CocoBoxes.open(file, PERSON), "boxes.json"),
    "instances": on_file(CocoInstances.open, "instances.json"),
    "keypoints": on_file(CocoKeypoints.open, "keypoints.json"),
    "panoptic": on_file(CocoPanoptic.open, "panoptic.json"),
    "surfaces": on_file(CocoSurfaces.open, "surface.json"),
    "calibration images": on_file(
        lambda file: CalibrationSet.from_coco(file, file.parent, count=1, boxes=True), "coco.json"
    ),
    "checkpoint": _checkpoint,
}


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("reader", READERS)
def test_a_document_that_is_none(reader: str, document: str, tmp_path: Path) -> None:
    with pytest.raises(EdgewiseError) as caught:
        READERS[reader](DOCUMENTS[document], tmp_path)
    assert len(caught.value.what) < 400


# ---------------------------------------------------------------- runs whose sum wraps


def _wrapping(size: tuple[int, int]) -> list[list[int]]:
    """Runs that fill a frame by the arithmetic of 64 bits."""
    pixels = size[0] * size[1]
    return [
        [1 << 62, 1 << 62, 1 << 62, (1 << 62) + pixels],
        [(1 << 63) - 1, (1 << 63) - 1, pixels + 2],
        [pixels + 1, -1],
        [0] * (pixels + 2) + [pixels],
        [pixels << 64],
    ]


@pytest.mark.parametrize("runs", _wrapping((4, 4)))
def test_runs_whose_sum_wraps_are_refused(runs: list[int]) -> None:
    with pytest.raises(ValueError, match="run"):
        decode_segmentation(CocoRle((4, 4), runs), (4, 4))


def _text(counts: list[int]) -> str:
    """COCO's compressed form of counts of any size."""
    text = ""
    for index, count in enumerate(counts):
        value = count - (counts[index - 2] if index > 2 else 0)
        more = True
        while more:
            code, value = value & 31, value >> 5
            more = value != (-1 if code & 16 else 0)
            text += chr(code + (32 if more else 0) + 48)
    return text


@pytest.mark.parametrize("runs", [*_wrapping((4, 4)), [1 << 58] * 64 + [16], [8, 1 << 40, 8, -(1 << 40)]])
def test_compressed_runs_whose_sum_wraps_are_refused(runs: list[int]) -> None:
    with pytest.raises(ResultError):
        decode_rle(_text(runs), (4, 4))


def test_the_compressed_form_of_this_test_is_cocos() -> None:
    assert decode_rle(_text([3, 5, 2, 6]), (4, 4)).T.ravel().tolist() == [0] * 3 + [1] * 5 + [0] * 2 + [1] * 6


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"segmentation": "text"},
        {"segmentation": {"size": [4, 4], "counts": 7}},
        {"segmentation": {"size": "ab", "counts": "0"}},
        {"segmentation": {"size": [4, 4], "counts": _text([1 << 34, 16])}},
        {"segmentation": {"size": [1 << 70, 1], "counts": ""}},
    ],
)
def test_a_record_without_a_mask(record: dict[str, Any]) -> None:
    with pytest.raises(ResultError):
        read_masks([record], (4, 4))


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": "1234"},
        {"bbox": [0, 0, 1, 10**400]},
        {"bbox": [0, 0, float("inf"), 1]},
        {"bbox": [0, 0, [1], 1]},
        {"score": None},
        {"category_id": []},
        {"category_id": 1 << 80},
    ],
)
def test_a_record_of_no_thing(change: dict[str, Any]) -> None:
    with pytest.raises(ResultError):
        read_records([{"bbox": [0, 0, 1, 1], "score": 1.0, "category_id": 1, **change}], (PERSON,))


# ---------------------------------------------------------------- tensors

SPEC = TensorSpec(name="t", dtype=DType.FLOAT32, shape=(2, 3))


def _npz(content: bytes, name: str = "t.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 cut off",
        _npz(b""),
        _npz(b"\x93NUMPY\x09\x00"),
        _npz(_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }")),
        _npz(_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }")),
        _npz(_npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }", b"\0" * 24)),
        _npz(_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3), }")),
        _npz(_npy("__import__('os')")),
        _npz(_npy("[" * 100)),
        _npz(b"\0" * 50_000_000),
        _npz(b"", "u.npy"),
        _npz(b"x", "../../t"),
    ],
)
def test_an_archive_that_is_none(data: bytes) -> None:
    with pytest.raises(EdgewiseError):
        read_npz(data, [SPEC], role="tensor", where="t.npz")


def test_an_archive_that_is_one() -> None:
    for order in ("C", "F"):
        values = np.array(np.arange(6, dtype=np.float32).reshape(2, 3), order=order)  # type: ignore[call-overload]
        buffer = io.BytesIO()
        np.savez_compressed(buffer, t=values)
        read = read_npz(buffer.getvalue(), [SPEC], role="tensor", where="t.npz")["t"]
        np.testing.assert_array_equal(read, values)
        assert read.flags.c_contiguous


# ---------------------------------------------------------------- numbers of a calibration table


@pytest.mark.parametrize("amax", [1e39, 1e300])
def test_a_range_that_float32_cannot_hold(amax: float) -> None:
    table = {
        "method": "minmax",
        "sample_count": 1,
        "seed": 0,
        "samples_sha256": "0" * 64,
        "preprocess_sha256": "0" * 64,
        "tensors": {"t": {"minimum": 0.0, "maximum": amax, "amax": amax, "method": "minmax"}},
    }
    with pytest.raises(EdgewiseError, match="cannot be"):
        decode_table(msgspec.json.encode(table))
    table["tensors"] = json.loads(json.dumps(table["tensors"]).replace(repr(amax), "1.5"))
    assert decode_table(msgspec.json.encode(table)).scale_of("t") > 0
