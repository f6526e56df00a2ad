"""
Safetensors files, written and read as the raw bytes they are.

    views = file_views({"tokens": from_numpy(array)}, {"rows": "250"})    # b"".join(views) is the file
    places, metadata = parse_header(data, "where")
    tokens = places["tokens"].view(data)

The format is eight bytes of header length, a JSON header, and the tensors one after another. The
library's own loader maps the file and copies page by page, which is 8 times slower than one read
of the whole file; a test lets the library prove that it reads ours. Nothing in such a file can
run code.

Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xxhash

from instruct_core.errors import CorruptFileError
from instruct_core.storage.direct import PAGE_BYTES
from instruct_core.storage.json_text import loose_json

# bfloat16 has no numpy type: its bytes pass as 16-bit integers, and torch views them.
NUMPY_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "BF16": "<u2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # the limit of the format
ALIGNMENT_BYTES = 64  # of the first tensor: what was read can be computed with where it lies
HUGE_PAGE_BYTES = 2 << 20


class Spec(NamedTuple):
    """What the header says of a tensor: its type in the format's own name, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its data; exact, however large the shape says it is."""
        return math.prod(self.shape) * np.dtype(NUMPY_TYPES[self.dtype]).itemsize


class Tensor(NamedTuple):
    """One tensor of a file: what the header says of it, and its bytes."""

    spec: Spec
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
    return Tensor(Spec(names[array.dtype.newbyteorder("<")], array.shape), data)


def hash_arrays(arrays: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> str:
    """Return xxh3-128 of the arrays' bytes in the order of their names."""
    hasher = xxhash.xxh3_128()
    for name in sorted(arrays):
        hasher.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
    return hasher.hexdigest()


def plan_file(
    specs: Mapping[str, Spec], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, Place], int]:
    """Return a file's first bytes, where each tensor lies in it, in that order, and its size."""

    # Tensors that fill whole lines come first and keep each other aligned; then wide types first.
    def order(name: str) -> tuple[bool, int, str]:
        itemsize = np.dtype(NUMPY_TYPES[specs[name].dtype]).itemsize
        return specs[name].num_bytes % ALIGNMENT_BYTES != 0, -itemsize, name

    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position, names = 0, sorted(specs, key=order)
    for name in names:
        dtype, shape = specs[name]
        stop = position + specs[name].num_bytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    head = len(text).to_bytes(8, "little") + text
    places = {}
    for name in names:
        start, stop = header[name]["data_offsets"]
        places[name] = Place(*specs[name], len(head) + start, len(head) + stop)
    return head, places, len(head) + position


def file_views(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[memoryview]:
    """Return a whole file in parts; the same tensors and metadata give the same bytes."""
    head, places, _ = plan_file({name: t.spec for name, t in tensors.items()}, metadata)
    return [memoryview(head), *(tensors[name].data for name in places)]


def aligned_buffer(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """
    Return memory that begins on a page: a disk can take it from there, and tensors compute with it.

    numpy asks the kernel for huge pages where it can, which makes the first touch several times
    cheaper than that of torch's memory; large memory begins on one.
    """
    page = HUGE_PAGE_BYTES if size >= 2 * HUGE_PAGE_BYTES else PAGE_BYTES
    memory = np.empty(size + page, np.uint8)
    start = -memory.ctypes.data % page
    return memory[start : start + size]


def parse_header(
    data: Any, where: str, num_bytes: int | None = None
) -> tuple[dict[str, Place], dict[str, str]]:
    """
    Return where each tensor lies in a file, and the metadata.

    Args:
        data: The bytes of the whole file; or of its header, where ``num_bytes`` says how long it is.
        where: It lies, for messages.
        num_bytes: Of the whole file.

    Raises:
        CorruptFileError: It is not a complete file of the format.
    """
    try:
        view = memoryview(data)
        return _parse_header(view, where, view.nbytes if num_bytes is None else num_bytes)
    except CorruptFileError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"{where} is no complete safetensors file: {error}.") from error


def other_type(where: str, name: str, dtype: str) -> CorruptFileError:
    """Return what is said of a tensor that no program here can read."""
    return CorruptFileError(
        f"{where} has {name} as {dtype}, which is not read. Give weights in bf16, fp16 or fp32."
    )


def _parse_header(
    data: memoryview, where: str, num_bytes: int
) -> tuple[dict[str, Place], dict[str, str]]:
    header_bytes = int.from_bytes(data[:8], "little")
    if num_bytes < 8 or header_bytes > min(MAX_HEADER_BYTES, num_bytes - 8):
        raise ValueError(f"it ends after {num_bytes} bytes, inside its header")
    header = loose_json(bytes(data[8 : 8 + header_bytes]))
    metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
    places, position = {}, 8 + header_bytes
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape = tuple(int(n) for n in entry["shape"])
        start, stop = (8 + header_bytes + int(n) for n in entry["data_offsets"])
        if entry["dtype"] not in NUMPY_TYPES:
            raise other_type(where, name, entry["dtype"])
        expected = Spec(entry["dtype"], shape).num_bytes
        if start != position or min((0, *shape)) < 0 or stop - start != expected:
            raise ValueError(f"the offsets of {name} do not fit its shape")
        places[name] = Place(entry["dtype"], shape, start, stop)
        position = stop
    if position != num_bytes:
        raise ValueError(f"it has {num_bytes} bytes, expected {position}")
    return places, metadata
