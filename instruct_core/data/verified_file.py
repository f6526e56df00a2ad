"""
The files of shards as they lie on disk, each verified when it is first opened.

    files = VerifiedFiles(store, manifest.train)
    files.columns(3)["tokens"].rows(12, 40)               # read from the disk

None is mapped into memory: a page that was verified may have left memory since, and where the disk does
not give it any more, a map ends the process with a signal, SIGBUS. A read fails in words. A set may have
more files than a process may open: those that were not asked for of late are closed. Every other row may
open one again, as most sets have 64 shards or more: that asks for the file alone, and hashes it only if
it is another, or has changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from io import FileIO
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from instruct_core.data.remake import command_that_makes
from instruct_core.data.set_manifest import ShardFile
from instruct_core.errors import CorruptFileError
from instruct_core.storage.cache import local_copy
from instruct_core.storage.looks import is_there
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.plain_file import open_plain, opened
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import NUMPY_TYPES, Place, parse_header

LOOK_AGAIN_SECONDS = 2.0
READ_BYTES = 1 << 20
MAX_OPEN = 64  # files of a split, as most sets have; see jobs/open_files.py for all that a rank has


class State(NamedTuple):
    """Which file it is, and whether somebody has changed it."""

    device: int
    inode: int
    num_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, descriptor: int) -> State:
        """Return that of an open file."""
        found = os.fstat(descriptor)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class OpenFile:
    """A file that is open for as long as somebody has it."""

    def __init__(self, path: Path) -> None:
        self.path, self.descriptor = path, open_plain(path)
        self.state = State.of(self.descriptor)

    def __del__(self) -> None:
        # It could not be opened; or its disk is away, and nothing was written.
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.descriptor)

    def read(self, start: int, num_bytes: int) -> bytes:
        """Return bytes of it; raises OSError where the disk does not give them for a while."""
        with contextlib.suppress(OSError):
            return self._read(start, num_bytes)
        return on_a_disk(self.path, lambda: self._read_patiently(start, num_bytes))

    def _read_patiently(self, start: int, num_bytes: int) -> bytes:
        try:
            return self._read(start, num_bytes)
        except OSError as error:
            if error.errno == errno.ESTALE:  # for good to who has it open, as after a server's move
                self._open_anew()
            raise

    def _open_anew(self) -> None:
        """Open what lies there now, if it is the same file in the same state."""
        with contextlib.suppress(OSError):
            there = OpenFile(self.path)
            if there.state == self.state:
                os.dup2(there.descriptor, self.descriptor, inheritable=False)

    def _read(self, start: int, num_bytes: int) -> bytes:
        data = os.pread(self.descriptor, num_bytes, start)
        if len(data) != num_bytes:  # when it was opened it was longer
            raise OSError(errno.EIO, "it has become shorter", str(self.path))
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


class Verified(NamedTuple):
    """A file whose bytes were compared with the manifest."""

    path: Path
    state: State  # in which it was then
    places: dict[str, Place]  # of its tensors

    def columns(self, file: OpenFile) -> dict[str, Column]:
        """Return its tensors, now that it is open."""
        return {name: Column(file, place) for name, place in self.places.items()}


class VerifiedFiles:
    """
    The files of a split, a few of them open at a time; each is hashed when it is first opened.

    Args:
        store: The shard set. What is not on this machine is fetched file by file.
        entries: Their lines of the manifest.
    """

    def __init__(self, store: Store, entries: Sequence[ShardFile]) -> None:
        # Nothing in it knows of this object, so all are closed as soon as it is gone.
        self._open = lru_cache(MAX_OPEN)(partial(_opened, store, entries, {}))

    def columns(self, number: int) -> dict[str, Column]:
        """
        Return a file's tensors; one look is no verdict: a damaged one is read again, past the cache.

        Raises:
            CorruptFileError: It is gone, or not what the manifest says.
            OSError: The disk does not give it for a while.
        """
        return self._open(number)


def _opened(
    store: Store, entries: Sequence[ShardFile], verified: dict[int, Verified], number: int
) -> dict[str, Column]:
    """Return the tensors of a file, open from now on; note it among the verified ones."""
    known = verified.get(number)
    if known is not None and (columns := _opened_again(known)) is not None:
        return columns
    entry = entries[number]
    path = local_copy(store, entry.file, entry.bytes, entry.xxh3)
    try:
        file, known = on_a_disk(path, lambda: _open(path, store, entry))
    except CorruptFileError:
        sleep(LOOK_AGAIN_SECONDS)
        with contextlib.suppress(FileNotFoundError), opened(path) as cached:
            os.posix_fadvise(cached, 0, 0, os.POSIX_FADV_DONTNEED)
        file, known = on_a_disk(path, lambda: _open(path, store, entry))
    verified[number] = known
    return known.columns(file)


def _opened_again(known: Verified) -> dict[str, Column] | None:
    """Return the tensors of a file if it is still the one that was verified, and the disk gives it."""
    with contextlib.suppress(OSError):
        file = OpenFile(known.path)
        if file.state == known.state:
            return known.columns(file)
    return None


def _open(path: Path, store: Store, entry: ShardFile) -> tuple[OpenFile, Verified]:
    if not is_there(path):
        raise _unfit(store, entry, "is gone, though the manifest names it")
    if (size := path.stat().st_size) != entry.bytes:
        raise _unfit(store, entry, f"is corrupt: it has {size} bytes, expected {entry.bytes}")
    file = OpenFile(path)
    with FileIO(file.descriptor, closefd=False) as content:
        if _digest(content) != entry.xxh3:
            raise _unfit(store, entry, "is corrupt: xxh3 differs from the manifest")
    head = file.read(0, 8 + int.from_bytes(file.read(0, 8), "little"))
    places, _ = parse_header(head, str(path), size)
    return file, Verified(path, file.state, places)


def _unfit(store: Store, entry: ShardFile, problem: str) -> CorruptFileError:
    """Return what is raised of a file; the command is read from the store, so it is asked for here."""
    where, rebuild = store.where(entry.file), command_that_makes(store)
    return CorruptFileError(f"Shard {where} {problem}. Rebuild it: {rebuild}")


def _digest(file: FileIO) -> str:
    hasher, scratch = xxhash.xxh3_128(), memoryview(bytearray(READ_BYTES))
    while count := file.readinto(scratch):
        hasher.update(scratch[:count])
    return hasher.hexdigest()
