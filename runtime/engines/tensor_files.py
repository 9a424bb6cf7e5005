"""Tensors from an .npz, as declared: what the file says of itself is believed nowhere."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence

import numpy as np

from edgewise.runtime.contract.manifest import TensorSpec
from edgewise.runtime.engines.base import Tensor, check_tensors, numpy_dtype
from edgewise.runtime.system.errors import BundleError

_HEADER = 1 << 12
"""Bytes that an array's own header may take; numpy's takes 128 for any shape of the contract."""


def read_npz(data: bytes, specs: Sequence[TensorSpec], *, role: str, where: str) -> dict[str, Tensor]:
    """The tensors of an .npz, exactly those of `specs`.

    No entry is unpacked further than its declared tensor is long, whatever the headers of the archive and the
    array state.

    Raises:
        BundleError: No .npz, or an entry that is longer than its tensor.
        BackendError: A tensor that is missing, unknown, or of another dtype or shape.
    """
    sizes = {spec.name: math.prod(spec.shape) * numpy_dtype(spec.dtype).itemsize for spec in specs}
    tensors: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                longest = _HEADER + sizes.get(name, 0)
                with archive.open(entry) as stream:
                    content = stream.read(longest + 1)
                if name in sizes and len(content) > longest:
                    raise BundleError(f"the tensor {name!r} is longer than declared", where=where)
                tensors[name] = _read_array(content) if name in sizes else np.zeros(0)
    except BundleError:
        raise
    except Exception as error:  # what zipfile, zlib and numpy end in on broken bytes is no closed list
        raise BundleError(
            f"not an .npz of tensors: {error}", where=where, hint="copy the bundle again"
        ) from None
    check_tensors(specs, tensors, role=role, where=where)
    return tensors


def _read_array(content: bytes) -> Tensor:
    """One .npy; ValueError where its header promises more or less than there is."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an array of the .npy version {version}")
    shape, fortran, dtype = readers[version](stream)
    rest = content[stream.tell() :]
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"an array {dtype} {list(shape)} of {len(rest)} bytes")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C").copy()
