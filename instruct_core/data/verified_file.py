"""
A shard's file as it lies on disk, verified when it is opened.

    columns = open_verified(path, store, entry)        # entry: its line of the manifest
    columns["tokens"].rows(12, 40)                     # read from the disk

It is not mapped into memory: a page that was verified may have left memory since, and where the disk does
not give it any more, a map ends the process with a signal, SIGBUS. A read fails in words.
"""

from __future__ import annotations

import contextlib
import os
from io import FileIO
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from instruct_core.data.remake import command_that_makes
from instruct_core.errors import CorruptFileError
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import NUMPY_TYPES, Place, parse_header

LOOK_AGAIN_SECONDS = 2.0
READ_BYTES = 1 << 20


class OpenFile:
    """A file that is open for as long as somebody has it."""

    def __init__(self, path: Path) -> None:
        self.path, self.descriptor = path, os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        # It could not be opened; or its disk is away, and nothing was written.
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.descriptor)

    def read(self, start: int, num_bytes: int) -> bytes:
        """
        Return bytes of it.

        Raises:
            OSError: The disk does not give them for a while.
            CorruptFileError: It has become shorter.
        """
        with contextlib.suppress(OSError):
            if len(data := os.pread(self.descriptor, num_bytes, start)) == num_bytes:
                return data
        data = on_a_disk(self.path, lambda: os.pread(self.descriptor, num_bytes, start))
        if len(data) != num_bytes:
            raise CorruptFileError(f"Shard {self.path} has become shorter since it was opened.")
        return data


class Column:
    """
    A tensor of an open file.

    Args:
        file: In which it lies.
        place: Where.
    """

    def __init__(self, file: OpenFile, place: Place) -> None:
        self._file, self._start = file, place.start
        self._num_rows, *self._row = place.shape
        self._type = np.dtype(NUMPY_TYPES[place.dtype])
        self._row_bytes = (place.stop - place.start) // max(1, self._num_rows)

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, first: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return its rows from ``first`` to ``stop``, or all; raises as `OpenFile.read` does."""
        count = (self._num_rows if stop is None else stop) - first
        data = self._file.read(self._start + first * self._row_bytes, count * self._row_bytes)
        return np.frombuffer(data, self._type).reshape(count, *self._row)


def open_verified(path: Path, store: Store, entry: dict[str, Any]) -> dict[str, Column]:
    """Return a shard's tensors; one look is no verdict: a damaged one is read again, past the cache."""
    try:
        return on_a_disk(path, lambda: _open(path, store, entry))
    except CorruptFileError:
        sleep(LOOK_AGAIN_SECONDS)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return on_a_disk(path, lambda: _open(path, store, entry))


def _open(path: Path, store: Store, entry: dict[str, Any]) -> dict[str, Column]:
    rebuild = f"Rebuild it: {command_that_makes(store)}"
    where = f"Shard {store.where(entry['file'])}"
    if not path.exists():
        raise CorruptFileError(f"{where} is gone, though the manifest names it. {rebuild}")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise CorruptFileError(
            f"{where} is corrupt: it has {size} bytes, expected {entry['bytes']}. {rebuild}"
        )
    file = OpenFile(path)
    with FileIO(file.descriptor, closefd=False) as whole:
        if _digest(whole) != entry["xxh3"]:
            raise CorruptFileError(f"{where} is corrupt: xxh3 differs from the manifest. {rebuild}")
    head = file.read(0, 8 + int.from_bytes(file.read(0, 8), "little"))
    places, _ = parse_header(head, str(path), size)
    return {name: Column(file, place) for name, place in places.items()}


def _digest(file: FileIO) -> str:
    hasher, scratch = xxhash.xxh3_128(), memoryview(bytearray(READ_BYTES))
    while count := file.readinto(scratch):
        hasher.update(scratch[:count])
    return hasher.hexdigest()
