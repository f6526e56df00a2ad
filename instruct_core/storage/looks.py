"""
What is there on a disk, asked so that one which does not answer is not taken for an empty one.

    is_there(path), is_folder(path)               # OSError where nobody can tell
    entries_in(folder, "progress-*.json")              # sorted; [] where there is no such folder

Where a disk fails, Path.glob finds nothing from Python 3.13 on, and Path.exists and its like say no from
3.14 on.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

NOT_OURS = {errno.EACCES, errno.EPERM}
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP}  # what Python takes for that


def is_there(path: Path) -> bool:
    """Return True if something is at a path; raises OSError where the disk does not say."""
    return _asked(path, lambda mode: True)


def is_folder(path: Path) -> bool:
    """Return True if a folder, or a link to one, is at a path; raises OSError as `is_there`."""
    return _asked(path, stat.S_ISDIR)


def _asked(path: Path, question: Callable[[int], bool]) -> bool:
    try:
        return question(os.stat(path).st_mode)  # noqa: PTH116  as os is asked below
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
        return False


def entries_in(folder: Path, pattern: str) -> list[Path]:
    """
    Return what is directly in a folder and has such a name; [] where there is none, or we may not look.

    Raises:
        OSError: As of `is_there`.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208  Path.iterdir asks for a Path of each
    except OSError as error:
        if error.errno in NOT_THERE | NOT_OURS:
            return []
        raise
    return [folder / name for name in sorted(names) if fnmatchcase(name, pattern)]


def entries_below(folder: Path, pattern: str) -> list[Path]:
    """Return what is in a folder, or in one below it, and has such a name; raises OSError."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    walk = os.walk(folder, onerror=refuse)
    names = [(place, name) for place, folders, files in walk for name in (*folders, *files)]
    return sorted(Path(place, name) for place, name in names if fnmatchcase(name, pattern))
