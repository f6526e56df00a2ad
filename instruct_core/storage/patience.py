"""
What fails in passing is asked again: one look at a disk or a store is no verdict.

    patiently(lambda: path.stat(), seconds=60.0, may_pass=passes_on_a_disk)
    on_a_disk(path, path.stat)        # what a launcher asks outside of any store

A shared disk answers EIO to what is under way when a client is evicted or a server restarts, ESTALE
for a name that has moved, and is well a minute later. What is not there is an answer, and so is what
nobody may do: these are raised at once.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 10.0  # where nobody says how long; who waits longer says so
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 5.0
T = TypeVar("T")

# Of a disk that may answer in a while. Not ENOSPC and EDQUOT: a save that finds no room makes some.
PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENOTCONN,
    errno.EREMOTEIO, errno.ECOMM, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ESHUTDOWN,
    errno.ENOLINK, errno.EPROTO, errno.EPIPE,
}  # fmt: skip
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def passes_on_a_disk(error: OSError) -> bool:
    """Return True for what a disk may say while it, or the way to it, is not well."""
    return error.errno in PASSING


def patiently(call: Callable[[], T], seconds: float, may_pass: Callable[[OSError], bool]) -> T:
    """
    Call until it is answered, with growing pauses.

    Args:
        call: May be called again after it has failed.
        seconds: From the first failure on; after them it is called no more.
        may_pass: Tells what is worth another try.

    Raises:
        OSError: The last failure; or one that does not pass, at once.
    """
    failed_at, pause, has_told = 0.0, FIRST_PAUSE_SECONDS, False
    while True:
        try:
            answer = call()
        except OSError as error:
            now = time.monotonic()
            failed_at = failed_at or now  # a call that took long is tried again too
            if not may_pass(error):
                _say_over(has_told, failed_at)
                raise
            if now + pause > failed_at + seconds:
                raise
            if not has_told and now >= failed_at + LOOK_AGAIN_SECONDS:
                has_told = True
                away = now - failed_at
                logger.warning("No answer for %.0f s, asked for %.0f s: %s", away, seconds, error)
        else:
            _say_over(has_told, failed_at)
            return answer
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)


def _say_over(has_told: bool, failed_at: float) -> None:
    if has_told:
        logger.warning("Answered after %.0f s", time.monotonic() - failed_at)


def on_a_disk(path: Path, call: Callable[[], T], seconds: float = LOOK_AGAIN_SECONDS) -> T:
    """
    Call until a disk answers, as `patiently` does; what is raised in the end names the path.

    Args:
        path: What it is about.
        call: May be called again after it has failed, or was done and has not been told so.
        seconds: From the first failure on.
    """
    with naming(path):
        return patiently(call, seconds, passes_on_a_disk)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of a disk say which file it is about, where only an open file was asked for."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
