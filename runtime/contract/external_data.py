"""Whether an ONNX model keeps tensors in files of its own, which nobody has hashed.

ONNX Runtime and TensorRT read such files from the working directory where a model comes as bytes, and ONNX
Runtime knows a location that means an address in memory. So a model is asked before a library gets it. The
runtime has no onnx; protobuf's wire format is walked as far as messages that can hold a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgewise.runtime.system.errors import BundleError

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
"""Of TensorProto; onnx.proto numbers the fields."""

_INNER: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Message -> its fields that are, or hold, tensors."""


def refuse_external_data(model: bytes, where: str) -> None:
    """Raise unless every tensor of a serialised ONNX model lies in the model itself.

    Raises:
        BundleError: A tensor lies in another file, or the bytes are no protobuf message.
    """
    if b"location" not in model:  # the key without which no tensor lies elsewhere
        return
    waiting = [("model", memoryview(model))]
    try:
        while waiting:
            kind, message = waiting.pop()
            for number, value in _fields(message):
                if kind == "tensor":
                    if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
                        raise BundleError(
                            "the model keeps weights in a file of its own, which no manifest lists",
                            where=where,
                            hint="export the bundle again; its models hold their weights themselves",
                        )
                elif (inner := _INNER[kind].get(number)) and isinstance(value, memoryview):
                    waiting.append((inner, value))
    except (IndexError, ValueError):
        raise BundleError("the file is no ONNX model", where=where, hint="export the bundle again") from None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field: an integer, or the bytes of a field that has a length."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        wire = tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        if wire == _LENGTH:
            size, place = _varint(message, place)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError("a group, which ONNX does not have")
        if size > len(message) - place:
            raise ValueError("a field longer than its message")
        yield tag >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("an integer of more than ten bytes")
