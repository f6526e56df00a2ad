"""
Parts of a work done side by side by forks of this process, which have loaded what they need.

    for found in in_forks(2, lambda number: work_on, parts): ...     # in the order of the parts

A fork sees all that is there when the first part is given out. It ends with this process, however that
ends, and leaves Ctrl-C to it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from instruct_core.errors import ConfigError
from jobs.survival.task import end_with_parent

Part = TypeVar("Part")
Found = TypeVar("Found")

AHEAD = 3  # parts a fork that are given out: each has the next at hand, and few wait to be taken
# A row makes a dozen objects that are gone with its block: to look for circles among them each time that
# 700 are there, as Python does, takes a tenth of all the time.
YOUNG_OBJECTS = 100_000
# Libraries of tokenizers would have threads work: of this process, which no fork has, or two in each
# fork, which wait for each other.
NO_THREADS = {"TOKENIZERS_PARALLELISM": "false", "FASTOKENS_BPE_THREADS": "1"}

_work: Callable[[Any], Any]  # of this fork


def in_forks(
    number: int, make: Callable[[int], Callable[[Part], Found]], parts: Iterable[Part]
) -> Iterator[Found]:
    """
    Have forks work on parts, and yield what they find in the order of the parts.

    Args:
        number: Of the forks.
        make: Returns, in a fork and for its number from 0, what works on a part.
        parts: Looked at while others are worked on.

    Raises:
        ConfigError: A fork was killed.
        Exception: What a part raises; what looking for parts raises, behind all that was found before.
    """
    context = multiprocessing.get_context("fork")
    numbers = context.SimpleQueue()
    for fork in range(number):
        numbers.put(fork)
    with _without_threads():
        pool = ProcessPoolExecutor(number, context, _begin, (make, numbers))
        try:
            yield from _in_order(pool, parts, AHEAD * number)
        except BrokenProcessPool:
            raise ConfigError(
                "A process of this command was killed: the machine may be out of memory. Give the "
                "command again, with fewer of them: --array-parallelism 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, parts: Iterable[Part], most: int) -> Iterator[Any]:
    failures = list[Exception]()

    def found() -> Iterator[Part]:
        try:
            yield from parts
        except Exception as error:
            failures.append(error)

    waiting = deque[Future[Any]]()
    for part in found():
        waiting.append(pool.submit(_do, part))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
    for failure in failures:
        raise failure


@contextmanager
def _without_threads() -> Iterator[None]:
    """Have forks begin without the threads that libraries would start in them."""
    before = {name: os.environ.get(name) for name in NO_THREADS}
    os.environ |= NO_THREADS
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(make: Callable[[int], Callable[[Any], Any]], numbers: Any) -> None:
    global _work  # noqa: PLW0603  one a process, as pools want it
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(YOUNG_OBJECTS)
    _work = make(numbers.get())


def _do(part: Any) -> Any:
    return _work(part)
