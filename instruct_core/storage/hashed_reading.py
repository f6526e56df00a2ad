"""
Fill memory from a file, a few reads at a time, and hash it in order on the way.

    hasher = xxhash.xxh3_128()
    read_pieces(read_at, view, offset=0, piece_bytes=2 << 20, num_threads=3, hasher=hasher)

Who has read a piece hashes it, if all before it are: it is in that core's own cache still. So a load
whose every byte is verified takes hardly longer than one that believes what it reads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import xxhash

from instruct_core.storage.backend import ReadAt


def read_pieces(
    read_at: ReadAt,
    view: memoryview,
    offset: int,
    piece_bytes: int,
    num_threads: int,
    hasher: xxhash.xxh3_128,
) -> None:
    """
    Fill ``view`` with what stands in a file from ``offset`` on, and give it to ``hasher``.

    Args:
        read_at: Reads one piece; what it raises ends the others and is raised.
        piece_bytes: Read at once.
        num_threads: Pieces that are read at a time, at most.
    """
    pieces = [view[start : start + piece_bytes] for start in range(0, view.nbytes, piece_bytes)]
    offsets = range(offset, offset + view.nbytes, piece_bytes)
    in_order = _InOrder(hasher)

    def read_one(number: int) -> None:
        read_at(pieces[number], offsets[number])
        in_order.take(number, pieces[number])

    if len(pieces) < 2:  # not worth a thread
        for number in range(len(pieces)):
            read_one(number)
        return
    with ThreadPoolExecutor(min(num_threads, len(pieces)), thread_name_prefix="read") as threads:
        for _ in threads.map(read_one, range(len(pieces))):
            pass


class _InOrder:
    """Hashes pieces by their numbers, in whatever order and from whichever thread they come."""

    def __init__(self, hasher: xxhash.xxh3_128) -> None:
        self._hasher, self._lock = hasher, Lock()
        self._waiting: dict[int, memoryview] = {}
        self._next, self._is_hashing = 0, False

    def take(self, number: int, piece: memoryview) -> None:
        """Take a piece, and hash what is next, unless another thread is at it: that one goes on."""
        with self._lock:
            self._waiting[number] = piece
            if self._is_hashing:
                return
            self._is_hashing = True
        while (following := self._take_next()) is not None:
            self._hasher.update(following)

    def _take_next(self) -> memoryview | None:
        with self._lock:
            following = self._waiting.pop(self._next, None)
            if following is None:
                self._is_hashing = False
            else:
                self._next += 1
            return following
