"""
Large files past the system's file cache: what a save writes, and what a second look reads.

    if goes_straight(descriptor, view): view = view[write_straight(descriptor, view) :]

Source: open(2) on O_DIRECT.
"""

from __future__ import annotations

import errno
import fcntl
import os

PAGE_BYTES = 4096
# Of a read or a write past the cache, by a file system that could be switched to it all the same.
REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}
DIRECT_BYTES = 32 << 20  # smaller files are not worth it


def goes_straight(descriptor: int, view: memoryview) -> bool:
    """
    Switch a large write past the system's file cache, where the file system can do that.

    To copy a checkpoint into that cache takes two thirds of the processor time that a save costs,
    from a training that runs beside it, and drives out of the cache what training reads.
    """
    if view.nbytes < DIRECT_BYTES:
        return False
    import numpy as np  # here: who only looks at runs has no use for it

    address = np.frombuffer(view, np.uint8).ctypes.data
    return address % PAGE_BYTES == 0 and set_direct(descriptor, True)


def write_straight(descriptor: int, piece: memoryview) -> int:
    """Write what fills whole pages; return how much that was, 0 where it was refused."""
    try:
        whole = piece[: piece.nbytes - piece.nbytes % PAGE_BYTES]
        written = os.write(descriptor, whole) if whole.nbytes else 0
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        written = 0  # wants other alignments than pages, or takes nothing past the cache
    if written < piece.nbytes:  # the rest, from wherever it begins, goes through the cache
        set_direct(descriptor, False)
    return written


def set_direct(descriptor: int, on: bool) -> bool:
    """Have an open file's bytes pass the system's cache, or not; False where that cannot be had."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:  # not every file system has it
        return False
    return True
