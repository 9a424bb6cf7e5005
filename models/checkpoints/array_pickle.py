"""Pickled dictionaries of NumPy arrays (detectron2's model zoo), read without running code from them.

Neither NumPy's nor anybody's constructors are called: arrays and their types are answered with stand-ins that
keep what the file says of them, and only plain numbers of a fitting size become tensors.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgewise.models.checkpoints.opaque import Opaque, OpaqueDict
from edgewise.runtime.system.errors import CheckpointError

_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that a file of torch.save from before its zip archives begins with."""

_NUMBERS = {
    f"{kind}{size}": np.dtype(f"{kind}{size}")
    for kind, sizes in (("f", (2, 4, 8)), ("i", (1, 2, 4, 8)), ("u", (1,)), ("b", (1,)))
    for size in sizes
}


def is_array_pickle(file: Path) -> bool:
    """Whether a file is one plain pickle: not a zip archive, nor what torch.save wrote before."""
    with file.open("rb") as opened:
        start = opened.read(40)
    return start[:1] == b"\x80" and _TORCH_MAGIC not in start


def read_arrays(file: Path) -> Any:
    """What the pickle holds, arrays as tensors on the CPU; objects of unknown classes are `Opaque`.

    Raises:
        CheckpointError: Not such a file, cut short, or an array that is none.
    """
    try:
        with file.open("rb") as opened:
            # Files of Python 2 keep bytes in strings.
            content = _Unpickler(opened, encoding="latin1").load()
        return _with_tensors(content, set())
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except Exception:  # a broken pickle ends in whatever its last instruction did
        raise CheckpointError(
            "not a pickle of arrays, or part of one", where=str(file), hint="fetch the file again"
        ) from None


class _Type:
    """Stands for numpy.dtype: `name` is its code, `swapped` whether its bytes are in the other order."""

    def __init__(self, name: object, *rest: object) -> None:
        del rest
        self.name, self.swapped = str(name), False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.swapped = state[1] == ">"


class _Array:
    """Stands for numpy.ndarray. A pickled one is made empty and then given its state."""

    shape: tuple[int, ...] = ()
    type: _Type | None = None
    data: bytes | str = b""
    columns_first = False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.type, self.columns_first, self.data = state

    def tensor(self) -> Tensor | None:
        """None where it holds no numbers.

        Raises:
            ValueError: Shape and bytes do not belong together.
        """
        if self.type is None or self.type.name not in _NUMBERS:
            return None
        dtype = _NUMBERS[self.type.name].newbyteorder(">" if self.type.swapped else "<")
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        shape = tuple(map(int, self.shape))
        if any(side < 0 for side in shape) or len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes for an array {shape} of {self.type.name}")
        flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
        return torch.from_numpy(flat.reshape(shape, order="F" if self.columns_first else "C").copy())


class _Function:
    """Stands for a function: what is called is the class, to whose attributes no pickle can write."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a function has no state")


class _Reconstruct(_Function):
    def __new__(cls, *arguments: object) -> Any:
        del arguments
        return _Array()


class _Scalar(_Function):
    def __new__(cls, kind: _Type, data: bytes | str) -> Any:
        return _array(data, kind, (), False)


class _FromBuffer(_Function):
    """By which protocol 5 keeps an array."""

    def __new__(cls, data: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> Any:
        return _array(bytes(data), kind, shape, order == "F")


class _Encode(_Function):
    """`_codecs.encode`, by which protocol 2 keeps bytes."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise ValueError(encoding)
        return text.encode("latin1")


class _NoBytes(_Function):
    """`bytes()`, which has no other form in protocol 2."""

    def __new__(cls) -> Any:
        return b""


def _array(data: bytes | str, kind: _Type, shape: tuple[int, ...], columns_first: bool) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, columns_first, data))
    return array


_KNOWN: dict[tuple[str, str], Any] = {
    **{
        (f"numpy.{core}.{name}", function): stand_in
        for core in ("core", "_core")
        for name, function, stand_in in (
            ("multiarray", "_reconstruct", _Reconstruct),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _FromBuffer),
        )
    },
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Encode,
    **{(module, "bytes"): _NoBytes for module in ("builtins", "__builtin__")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        base = OpaqueDict if name.lower().endswith("dict") else Opaque
        return type("Opaque", (base,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"an object outside the file: {pid}")


def _with_tensors(value: Any, above: set[int]) -> Any:
    """Arrays as tensors, in nested dictionaries; one that is its own part, or no array, is left out."""
    if isinstance(value, _Array):
        return value.tensor()
    if not isinstance(value, dict) or id(value) in above:
        return value
    inside = above | {id(value)}
    return {key: _with_tensors(below, inside) for key, below in value.items()}
