"""
A shard's file as it lies on disk, verified when it is opened.

    data = map_verified(path, store, entry)        # entry: its line of the manifest
"""

from __future__ import annotations

import contextlib
import mmap
import os
from io import FileIO
from pathlib import Path
from time import sleep
from typing import Any

import xxhash

from instruct_core.data.remake import command_that_makes
from instruct_core.errors import CorruptFileError
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.store import Store

LOOK_AGAIN_SECONDS = 2.0
READ_BYTES = 1 << 20


def map_verified(path: Path, store: Store, entry: dict[str, Any]) -> mmap.mmap:
    """Return a shard's bytes; one look is no verdict, so a damaged one is read again, past the cache."""
    try:
        return on_a_disk(path, lambda: _map(path, store, entry))
    except CorruptFileError:
        sleep(LOOK_AGAIN_SECONDS)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return on_a_disk(path, lambda: _map(path, store, entry))


def _map(path: Path, store: Store, entry: dict[str, Any]) -> mmap.mmap:
    rebuild = f"Rebuild it: {command_that_makes(store)}"
    where = f"Shard {store.where(entry['file'])}"
    if not path.exists():
        raise CorruptFileError(f"{where} is gone, though the manifest names it. {rebuild}")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise CorruptFileError(
            f"{where} is corrupt: it has {size} bytes, expected {entry['bytes']}. {rebuild}"
        )
    with path.open("rb", buffering=0) as file:
        if _digest(file) != entry["xxh3"]:
            raise CorruptFileError(f"{where} is corrupt: xxh3 differs from the manifest. {rebuild}")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _digest(file: FileIO) -> str:
    """Read a file to its end, which fails in words: of a map, a page that the disk lacks is a SIGBUS."""
    hasher, scratch = xxhash.xxh3_128(), memoryview(bytearray(READ_BYTES))
    while count := file.readinto(scratch):
        hasher.update(scratch[:count])
    return hasher.hexdigest()
