"""Pieces that are read side by side are hashed in their order, whoever comes first."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import xxhash

from instruct_core.errors import CorruptFileError
from instruct_core.storage.hashed_reading import read_pieces
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import HUGE_PAGE_BYTES, aligned_buffer
from tests.conftest import HANGS_SECONDS

PIECE = 64


def content(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 50 * PIECE + 7])
@pytest.mark.parametrize("num_threads", [1, 2, 8])
def test_every_byte_is_read_and_hashed(size: int, num_threads: int) -> None:
    data, offset = content(size + 5), 5
    found, hasher = bytearray(size), xxhash.xxh3_128()

    def read_at(view: memoryview, start: int) -> None:
        view[:] = data[start : start + view.nbytes]

    read_pieces(read_at, memoryview(found), offset, PIECE, num_threads, hasher)

    assert bytes(found) == data[offset:]
    assert hasher.hexdigest() == xxhash.xxh3_128_hexdigest(data[offset:])


def test_first_piece_that_comes_last_is_hashed_first() -> None:
    data = content(4 * PIECE)
    found, hasher = bytearray(len(data)), xxhash.xxh3_128()
    others_are_there = Event()

    def read_at(view: memoryview, start: int) -> None:
        if start == 0:
            assert others_are_there.wait(HANGS_SECONDS)
        view[:] = data[start : start + view.nbytes]
        if start == 3 * PIECE:  # one thread has read all of the others by now
            others_are_there.set()

    read_pieces(read_at, memoryview(found), 0, PIECE, 2, hasher)

    assert bytes(found) == data
    assert hasher.hexdigest() == xxhash.xxh3_128_hexdigest(data)


def test_piece_that_cannot_be_read_ends_the_whole_read() -> None:
    def read_at(_: memoryview, start: int) -> None:
        if start == 2 * PIECE:
            raise OSError("the disk is not well")

    with pytest.raises(OSError, match="not well"):
        read_pieces(read_at, memoryview(bytearray(9 * PIECE)), 0, PIECE, 3, xxhash.xxh3_128())


def test_file_that_ends_before_its_pieces_do_is_named_and_read_no_further(tmp_path: Path) -> None:
    size = 3 * Store(tmp_path)._files.read_bytes
    (tmp_path / "short").write_bytes(bytes(size - 1))

    with pytest.raises(CorruptFileError, match=rf"short ends after {size - 1} bytes"):
        Store(tmp_path).read_hashed("short", aligned_buffer(size))


def test_loads_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    store = Store(tmp_path)
    size = 2 * store._files.read_bytes + 100
    files = {f"file-{n}": content(size + n) for n in range(4)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    with ThreadPoolExecutor(4) as threads:
        buffers = {name: aligned_buffer(len(data)) for name, data in files.items()}
        digests = list(threads.map(store.read_hashed, buffers, buffers.values()))

    assert digests == [xxhash.xxh3_128_hexdigest(data) for data in files.values()]
    assert all(buffers[name].tobytes() == data for name, data in files.items())


def test_large_memory_begins_on_a_huge_page_and_costs_none_that_is_not_touched() -> None:
    small, large = aligned_buffer(1000), aligned_buffer(3 * HUGE_PAGE_BYTES)

    assert small.ctypes.data % os.sysconf("SC_PAGE_SIZE") == 0
    assert (large.ctypes.data % HUGE_PAGE_BYTES, large.nbytes) == (0, 3 * HUGE_PAGE_BYTES)
