"""The calibration table: what every float tensor of a graph was seen to hold, and where that was learnt.

JSON form, as readable as it is strict:

    {
      "format": 1, "method": "entropy", "percentile": null,
      "sample_count": 64, "seed": 0, "samples_sha256": "...", "preprocess_sha256": "...",
      "tensors": {"relu_3": {"minimum": 0.0, "maximum": 7.31, "amax": 5.02, "method": "entropy"}, ...}
    }
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edgewise.runtime.contract.manifest import CalibrationMethod
from edgewise.runtime.contract.parts import Part, PositiveInt, Sha256
from edgewise.runtime.system.documents import decode_json
from edgewise.runtime.system.errors import CalibrationError

TABLE_FORMAT = 1

_LARGEST_CODE = 127
_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)


class TensorRange(Part, frozen=True, kw_only=True):
    """What one tensor held over all samples.

    `amax` is the largest magnitude that codes shall represent, as `method` chose it: 0 <= amax <=
    max(|minimum|, |maximum|). `unbounded` says that infinities were seen too, such as those of an attention
    mask: the tensor gets no codes, and the numbers are those of its finite values, or the largest of float32
    where nobody counted them.
    """

    minimum: float
    maximum: float
    amax: Annotated[float, Meta(ge=0.0)]
    method: CalibrationMethod
    unbounded: bool = False

    @property
    def largest_magnitude(self) -> float:
        """The largest |x| seen."""
        return max(abs(self.minimum), abs(self.maximum))


class CalibrationTable(Part, frozen=True, kw_only=True):
    """Ranges of the float32 tensors of one graph.

    `method` is that of the tensors that may become codes; the others hold plain extremes, which the choice of
    FP16 islands reads.
    """

    format: int = TABLE_FORMAT
    method: CalibrationMethod
    percentile: float | None = None
    sample_count: PositiveInt
    seed: int
    samples_sha256: Sha256
    preprocess_sha256: Sha256
    tensors: dict[str, TensorRange]

    def range_of(self, tensor: str) -> TensorRange:
        """The range of a tensor; CalibrationError where it was not observed."""
        found = self.tensors.get(tensor)
        if found is None:
            raise CalibrationError(
                "the calibration table has no range for this tensor",
                where=tensor,
                hint="the table belongs to another graph; calibrate this model",
            )
        return found

    @property
    def unbounded(self) -> frozenset[str]:
        """The tensors that hold infinities."""
        return frozenset(name for name, found in self.tensors.items() if found.unbounded)

    def scale_of(self, tensor: str) -> float:
        """The symmetric step amax / 127; 1 for a tensor that was always zero."""
        return symmetric_scale(self.range_of(tensor).amax)


def symmetric_scale(amax: float) -> float:
    """The step of symmetric signed codes: amax / 127 as float32, 1 where amax is zero."""
    return float(np.float32(max(amax / _LARGEST_CODE, _LEAST_SCALE))) if amax > 0 else 1.0


def encode_table(table: CalibrationTable) -> bytes:
    """The JSON form, one tensor a line block, tensors in graph order."""
    _check(table)
    return msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n"


def decode_table(data: bytes, *, where: str = "calibration table") -> CalibrationTable:
    """Read a table strictly; CalibrationError where it is not one, or its numbers cannot be."""
    table = decode_json(
        data,
        CalibrationTable,
        lambda reason: CalibrationError(
            f"not a calibration table: {reason}", where=where, hint="calibrate the model again"
        ),
    )
    _check(table)
    return table


def _check(table: CalibrationTable) -> None:
    if table.format != TABLE_FORMAT:
        raise CalibrationError(
            f"calibration table format {table.format}; this edgewise reads format {TABLE_FORMAT}",
            hint="update edgewise, or calibrate the model again",
        )
    if not table.tensors:
        raise CalibrationError("the calibration table holds no tensor", hint="calibrate the model again")
    for name, found in table.tensors.items():
        numbers = (found.minimum, found.maximum, found.amax)
        slack = 1 + 1e-6
        # Ranges are of float32 tensors: what lies beyond becomes infinite in a scale.
        if not all(abs(number) <= _LARGEST for number in numbers) or found.minimum > found.maximum:
            raise CalibrationError(f"the range {numbers} cannot be", where=name)
        if found.amax > found.largest_magnitude * slack:
            raise CalibrationError(
                f"amax {found.amax} lies above the largest magnitude {found.largest_magnitude}", where=name
            )
