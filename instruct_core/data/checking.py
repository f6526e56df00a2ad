"""
The rows of a source checked by several processes, as if one had taken them one after another.

    with checked_by(seen, num_processes=2) as take:
        for item in read_unparsed(url): take(item)
    seen.check_usable(skip_bad_rows=False)

One process reads the source and cuts it into batches; forks of it parse and check them by turns, and
what they note is put together in the order of the rows. A small source is not worth a fork. A process
that is left alone ends with its pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from instruct_core.data.record import FIRST, Record, Unparsed
from instruct_core.data.records import parsed
from instruct_core.data.seen_rows import Noted, SeenRows

Item = Record | Unparsed

ALONE_ROWS = 4000  # checked before there are others: they take as long to begin
BATCH_ROWS, BATCH_BYTES = 500, 4 << 20  # a batch is in memory once here and once there
MAX_PROCESSES = 4  # a login node belongs to others too


def num_checkers() -> int:
    """Return how many processes check rows beside the one that reads them; 0 for that one itself."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, MAX_PROCESSES) if cores > 1 else 0


@contextmanager
def checked_by(seen: SeenRows, num_processes: int) -> Iterator[Callable[[Item], None]]:
    """
    Yield what takes the rows of a source one after the other; when it ends, ``seen`` has noted all.

    Args:
        seen: Takes what is noted.
        num_processes: Beside this one; 0 for none.

    Raises:
        OSError: A process was killed, mostly for want of memory.
    """
    with ExitStack() as stack:
        checkers = _Checkers(seen, num_processes, stack)
        yield checkers.take if num_processes else lambda item: seen.take(parsed(item))
        checkers.finish()


class _Checkers:
    """Processes that get batches by turns; each has one at a time, so no pipe can fill up."""

    def __init__(self, seen: SeenRows, num_processes: int, stack: ExitStack) -> None:
        self._seen, self._num_processes, self._stack = seen, num_processes, stack
        self._pipes: list[Connection] = []
        self._busy: list[Connection] = []  # the one that got its batch first comes first
        self._batch: list[Item] = []
        self._kind: type[Item] = Record
        self._num_bytes = self._num_taken = 0

    def take(self, item: Item) -> None:
        self._num_taken += 1
        if self._num_taken <= ALONE_ROWS:
            self._seen.take(parsed(item))
            return
        if type(item) is not self._kind:  # another file, of another format
            self._hand_out()
            self._kind = type(item)
        self._batch.append(item)
        self._num_bytes += len(item.raw) if isinstance(item, Unparsed) else 0
        if len(self._batch) >= BATCH_ROWS or self._num_bytes >= BATCH_BYTES:
            self._hand_out()

    def finish(self) -> None:
        self._hand_out()
        while self._busy:
            self._collect()

    def _hand_out(self) -> None:
        if not self._batch:
            return
        if not self._pipes:
            self._begin()
        if len(self._busy) == self._num_processes:
            pipe = self._collect()
        else:
            pipe = next(pipe for pipe in self._pipes if pipe not in self._busy)
        try:
            pipe.send((self._kind, _columns(self._batch)))
        except BrokenPipeError:
            raise _killed() from None
        self._busy.append(pipe)
        self._batch, self._num_bytes = [], 0

    def _collect(self) -> Connection:
        """Note what the oldest batch has told."""
        pipe = self._busy.pop(0)
        try:
            noted = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise _killed() from None
        if isinstance(noted, BaseException):
            raise noted
        self._seen.merge(noted)
        return pipe

    def _begin(self) -> None:
        context = multiprocessing.get_context("fork")  # they know the columns and the template
        for _ in range(self._num_processes):
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            process = context.Process(
                target=_check, args=(self._seen, theirs, list(self._pipes)), daemon=True
            )
            process.start()
            theirs.close()
            self._stack.callback(process.join)
        for pipe in self._pipes:
            self._stack.callback(pipe.close)  # before they are waited for


def _columns(batch: list[Item]) -> list[Sequence[Any]]:
    """Return the fields of all rows one after another: five times as fast to send as rows are."""
    columns: list[Sequence[Any]] = list(zip(*batch, strict=True))
    columns[2] = [FIRST] * len(batch)  # where the next one begins, the reader knows
    return columns


def _check(seen: SeenRows, pipe: Connection, others: list[Connection]) -> None:
    """Check batches until the reader has no more, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the reader's, whose end is ours
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:  # or a reader that was killed would not close them
        other.close()
    try:
        while True:
            kind, columns = pipe.recv()
            pipe.send(_noted(seen, map(kind, *columns)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _noted(seen: SeenRows, batch: Iterable[Item]) -> Noted | Exception:
    seen.begin_anew()
    try:
        for item in batch:
            seen.take(parsed(item))
    except Exception as error:  # one of ours, to be seen where the command was given
        return error
    return seen.noted


def _killed() -> OSError:
    return OSError("A process that checks rows was killed: perhaps there is not enough memory here")
