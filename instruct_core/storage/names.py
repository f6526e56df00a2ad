"""
Names on a disk, given and taken so that a lost answer does no harm.

    mine = identity(scratch)
    rename(scratch, path, mine)                    # done, if need be by an earlier try
    is_ours = link(scratch, path)                  # exclusive, on NFS too

What a server was asked may have been done though its answer was lost. So before anything is asked
again, or believed to have failed, what is found there is looked at, and tells whose it is: a link shows
in the link count of what it was made from, and a renamed file has kept its inode. Beside that, a claim
has bytes like nobody else's, a scratch file's name is of one thread alone, and a folder that nobody
knows the maker of is left for the next number (launch/cluster/job_folder.py).

Sources: open(2), link(2), rename(2), fsync(2).
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instruct_core.errors import ConfigError
from instruct_core.storage.looks import is_folder, is_there


def without_tilde(place: str | Path) -> Path:
    """Return a path with the home folder that its ~ stands for; raises ConfigError for nobody's."""
    try:
        return Path(place).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"Place {place} cannot be used: nobody knows the home folder that ~ stands for. Give the "
            "whole path."
        ) from None


def real_path(place: str | Path) -> Path:
    """
    Return a path as an absolute one without links; raises as `without_tilde`.

    Links that lead in a circle stay, for the disk to complain of where the path is used: of them
    Path.resolve raises what is no OSError.
    """
    return Path(os.path.realpath(without_tilde(place)))


def link(scratch: Path, path: Path) -> bool:
    """Give a file that we alone know of a second name; False where somebody else's file has it."""
    try:
        path.hardlink_to(scratch)
    except OSError as error:
        with scratch.open("rb") as file:  # NFS looks anew where a file is opened
            if os.fstat(file.fileno()).st_nlink == 2:  # it was done, and the answer was lost
                return True
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def rename(source: Path, target: Path, mine: tuple[int, int]) -> None:
    """
    Give a file or a folder another name, and make that durable.

    Args:
        source: What it was called.
        target: What it will be called.
        mine: Its `identity`, from before the first try.
    """
    try:
        source.rename(target)
    except OSError:
        if is_there(source) or identity(target) != mine:
            raise
        # It was done, and the answer was lost.
    sync_folder(target.parent)


def identity(path: Path) -> tuple[int, int]:
    """Return what a file or a folder keeps under whatever name."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def nearest(folder: Path) -> Path:
    """Return a folder, or the first above it that is there; raises OSError for links in a circle."""
    with suppress(FileNotFoundError, NotADirectoryError):
        folder.stat()
        return folder
    return nearest(folder.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; fine if it is gone already."""
    if is_folder(path) and not path.is_symlink():
        shutil.rmtree(path, onerror=_unless_gone)
    else:
        path.unlink(missing_ok=True)


def _unless_gone(_function: object, _path: str, caught: tuple[type, BaseException, object]) -> None:
    if not isinstance(caught[1], FileNotFoundError):
        raise caught[1]


def scratch_of(path: Path) -> Path:
    """Return where a thread writes what will have another name: nobody else writes there."""
    who = f"{socket.gethostname()}.{os.getpid()}.{threading.get_native_id()}"
    return path.with_name(f".{path.name}.{who}.tmp")


@contextmanager
def gone_if_it_fails(scratch: Path) -> Iterator[None]:
    """Leave nothing of a file where its writing fails, or Ctrl-C ends it: others need the room."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
