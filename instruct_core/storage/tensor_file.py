"""
Safetensors files, written and read as the raw bytes they are.

    digest = write_tensors(sink, {"tokens": array}, {"rows": "250"})
    layout = parse_header(data)
    tokens = layout["tokens"].view(data)

The format is eight bytes of header length, a JSON header, and the tensors one after another. The
library's own loader maps the file and copies page by page, which is 8 times slower than one read
of the whole file; a test lets the library prove that it reads ours. Nothing in such a file can
run code.

Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import xxhash

from instruct_core.errors import CorruptFileError

# bfloat16 has no numpy type: its bytes pass as 16-bit integers, and torch views them.
NUMPY_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "BF16": "<u2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # the limit of the format
ALIGNMENT_BYTES = 64  # of the first tensor: what was read can be computed with where it lies
WRITE_BYTES = 8 << 20  # hash and write in pieces that stay in the cache


class Sink(Protocol):
    """Where bytes go: an open file of any store."""

    def write(self, data: Any, /) -> Any: ...


class BytesSink(bytearray):
    """A file in memory."""

    def write(self, data: Any, /) -> None:
        self.extend(data)


class Tensor(NamedTuple):
    """One tensor of a file: its type in the format's own name, its shape and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class Place(NamedTuple):
    """Where a tensor lies in a file: absolute byte offsets."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def view(self, data: Any) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the tensor inside ``data``, the bytes of the whole file, without a copy."""
        numpy_type = np.dtype(NUMPY_TYPES[self.dtype])
        count = (self.stop - self.start) // numpy_type.itemsize
        return np.frombuffer(data, numpy_type, count, self.start).reshape(self.shape)


def from_numpy(array: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
    """Return ``array`` as a tensor of the format; shares its memory where it is contiguous."""
    names = {np.dtype(numpy_type): name for name, numpy_type in NUMPY_TYPES.items()}
    names[np.dtype("<u2")] = "U16"
    array = np.ascontiguousarray(array)
    data = memoryview(array.reshape(-1).view(np.uint8).data)
    return Tensor(names[array.dtype.newbyteorder("<")], array.shape, data)


def hash_arrays(arrays: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> str:
    """Return xxh3-128 of the arrays' bytes in the order of their names."""
    hasher = xxhash.xxh3_128()
    for name in sorted(arrays):
        hasher.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
    return hasher.hexdigest()


def write_tensors(
    sink: Sink, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[int, str]:
    """
    Write a whole file; the same tensors and metadata give the same bytes.

    Returns:
        Size in bytes and xxh3-128 of all bytes, computed on the way.
    """

    # Tensors that fill whole lines come first and keep each other aligned; then wide types first.
    def place(name: str) -> tuple[bool, int, str]:
        dtype, _, data = tensors[name]
        return data.nbytes % ALIGNMENT_BYTES != 0, -np.dtype(NUMPY_TYPES[dtype]).itemsize, name

    names = sorted(tensors, key=place)
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in names:
        dtype, shape, data = tensors[name]
        stop = position + data.nbytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    hasher = xxhash.xxh3_128()
    total = 0
    head = memoryview(len(text).to_bytes(8, "little") + text)
    for view in [head, *(tensors[name].data for name in names)]:
        for start in range(0, view.nbytes, WRITE_BYTES):
            part = view[start : start + WRITE_BYTES]
            hasher.update(part)
            sink.write(part)
        total += view.nbytes
    return total, hasher.hexdigest()


def parse_header(data: Any, where: str) -> tuple[dict[str, Place], dict[str, str]]:
    """
    Return where each tensor lies in ``data``, the bytes of a whole file, and the metadata.

    Raises:
        CorruptFileError: The bytes are not a complete file of the format; ``where`` names it.
    """
    try:
        return _parse_header(memoryview(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFileError(f"{where} is no complete safetensors file: {error}.") from error


def _parse_header(data: memoryview) -> tuple[dict[str, Place], dict[str, str]]:
    header_bytes = int.from_bytes(data[:8], "little")
    if data.nbytes < 8 or header_bytes > min(MAX_HEADER_BYTES, data.nbytes - 8):
        raise ValueError(f"it ends after {data.nbytes} bytes, inside its header")
    header = json.loads(bytes(data[8 : 8 + header_bytes]))
    metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
    places, position = {}, 8 + header_bytes
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape = tuple(int(n) for n in entry["shape"])
        start, stop = (8 + header_bytes + int(n) for n in entry["data_offsets"])
        expected = (
            int(np.prod(shape, dtype=object)) * np.dtype(NUMPY_TYPES[entry["dtype"]]).itemsize
        )
        if start != position or min((0, *shape)) < 0 or stop - start != expected:
            raise ValueError(f"the offsets of {name} do not fit its shape")
        places[name] = Place(entry["dtype"], shape, start, stop)
        position = stop
    if position != data.nbytes:
        raise ValueError(f"it has {data.nbytes} bytes, expected {position}")
    return places, metadata
