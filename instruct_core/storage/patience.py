"""
What fails in passing is asked again: one look at a disk or a store is no verdict.

    patiently(lambda: path.stat(), seconds=60.0, may_pass=passes_on_a_disk)

A shared disk answers EIO to what is under way when a client is evicted or a server restarts, ESTALE
for a name that has moved, and is well a minute later. What is not there is an answer, and so is what
nobody may do: these are raised at once.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 5.0
T = TypeVar("T")

# Of a disk that may answer in a while. Not ENOSPC and EDQUOT: a save that finds no room makes some.
PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENOTCONN,
    errno.EREMOTEIO, errno.ECOMM, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ESHUTDOWN,
    errno.ENOLINK, errno.EPROTO, errno.EPIPE,
}  # fmt: skip


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
    give_up_at, pause = 0.0, FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except OSError as error:
            now = time.monotonic()
            give_up_at = give_up_at or now + seconds  # a call that took long is tried again too
            if not may_pass(error) or now + pause > give_up_at:
                raise
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
