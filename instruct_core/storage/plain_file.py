"""
Plain files, read so that nothing else in their place holds us up.

    text_of(folder / "failed.json")         # CorruptFileError where a pipe, a folder or a device is

Whoever opens a pipe waits for somebody who writes into it, and some devices never end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instruct_core.errors import CorruptFileError


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """
    Return a descriptor of a plain file.

    Args:
        path: Of the file.
        flags: As of os.open; with O_CREAT it need not be there.

    Raises:
        OSError: It is not there, or cannot be opened.
        CorruptFileError: It is something else.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    is_plain = False
    try:
        is_plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        if not is_plain:
            os.close(descriptor)
    if not is_plain:
        raise CorruptFileError(f"{path} is no plain file. Remove it.")
    return descriptor


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a plain file for reading; raises as `open_plain`."""
    descriptor = open_plain(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def bytes_of(path: Path) -> bytes:
    """Return all that is in a plain file; raises as `open_plain`."""
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read()


def text_of(path: Path, errors: str = "strict") -> str:
    """Return what is in a plain file as text; raises as `open_plain`, and UnicodeDecodeError."""
    return bytes_of(path).decode(errors=errors)
