"""
Whether a run can read and write where it is told to, asked before anything is queued.

    check_url("--checkpoints", "s3://bucket/runs", writes=True)
    check_folder("--runs", "runs_instruct", Path("runs_instruct/my-run"), num_bytes=0)

A place that nobody can reach or write, or that has no room for one checkpoint, is one line now and
not a failed job tomorrow.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instruct_core.errors import ConfigError, InstructError
from instruct_core.storage.disk import Disk
from instruct_core.storage.names import nearest, real_path
from instruct_core.storage.patience import LOOK_AGAIN_SECONDS, on_a_disk
from instruct_core.storage.plain_errors import may_pass
from instruct_core.storage.store import Store
from launch.console.lines import say

ENDPOINT = "endpoint in the environment (AWS_ENDPOINT_URL and its like)"
CREDENTIALS = (
    "Check the URL, and the credentials and endpoint in the environment (AWS_ACCESS_KEY_ID, "
    "AWS_ENDPOINT_URL and their like)"
)

# A URL whose bucket is missing, or one of its slashes: it would be a folder here.
HALF_URL = re.compile(
    r"[\w+.-]*:/*|(?!file:|local:|memory:)[\w+.-]*:///.*|(s3a?|gc?s|az|abfss?):(?!//).*"
)


def absolute(place: str) -> str:
    """
    Return a path as an absolute one, a URL as it is.

    Raises:
        ConfigError: It is neither; or it is not written in UTF-8, as settings and manifests are.
    """
    refuse_half_url(place)
    whole = place if "://" in place else str(real_path(place))
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"Place {place} cannot be used: its whole path, {os.fsencode(whole)!r}, is no UTF-8. Rename "
            "that folder, or go to another one."
        ) from None
    return whole


def refuse_half_url(place: str) -> None:
    """Refuse a URL without a bucket, or with a slash too few; raises ConfigError."""
    if HALF_URL.fullmatch(place):
        raise ConfigError(
            f"Place {place} cannot be used: it names no bucket. Write it as in s3://bucket/folder; a "
            "variable in it may be empty."
        )


@contextmanager
def reachable(flag: str, place: str) -> Iterator[None]:
    """Turn what an object store answers into one line about the flag; raises ConfigError."""
    try:
        yield
    except InstructError:
        raise
    except OSError as error:
        hint = _hint(error) if "://" in place else "Give another place"
        # A store's errors begin with its place, which is said already.
        reason = re.sub(
            rf"^{re.escape(place)}\S*: ", "", (error.strerror or str(error)).rstrip(".")
        )
        file = f"{error.filename}: " if error.filename not in (None, place) else ""
        raise ConfigError(f"{flag} {place} cannot be used: {file}{reason}. {hint}.") from None


def _hint(error: OSError) -> str:
    """Return what to do about the answer of an object store."""
    if isinstance(error, PermissionError):  # also for want of credentials
        return CREDENTIALS
    if may_pass(error):
        return (
            f"Try again in some minutes; if it is no better then, check the URL, and the {ENDPOINT}"
        )
    return f"Check the URL, and the {ENDPOINT}"


def check_looked_in(flag: str, place: str, may_be_missing: bool) -> None:
    """
    Refuse a place to look in that is no folder: what is not found in a file would be told as not begun.

    Args:
        flag: As typed, for the message.
        place: What it says; of a URL its store tells.
        may_be_missing: Whether it need not be there yet.

    Raises:
        ConfigError: Names the flag, the place and what is wrong with it.
    """
    with reachable(flag, place):
        store = Store(absolute(place))
        if not store.is_local:
            return
        folder = store.local_path("")
        try:
            mode = on_a_disk(folder, folder.stat).st_mode
        except FileNotFoundError:
            if not may_be_missing:
                raise
            return
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def check_url(flag: str, place: str, writes: bool) -> None:
    """Refuse a URL as `try_url` does, and say so where it does not keep two writers apart."""
    if not try_url(flag, place, writes):
        say(
            f"Note: {place} does not keep two writers apart (no conditional writes). Never let two "
            "jobs train one run."
        )


def try_url(flag: str, place: str, writes: bool) -> bool:
    """
    Refuse a URL that a job could not use; a path is left to `check_folder`.

    Args:
        flag: As typed, for the message.
        place: What it says.
        writes: Try to write as well: a small object, which is removed again.

    Returns:
        False if it was written to, and does not keep two writers apart.

    Raises:
        ConfigError: Names the flag, the place and what the store answered.
    """
    refuse_half_url(place)
    store = Store(place)
    if store.is_local:
        return True
    if place.startswith("memory://"):
        raise ConfigError(
            f"{flag} {place} cannot be used: memory ends with its process, and a job is another "
            "one. Give a path or a URL that both reach."
        )
    with reachable(flag, place):
        if writes:
            return store.try_out()
        store.names()
    return True


def check_folder(flag: str, place: str, folder: Path, num_bytes: int) -> None:
    """
    Refuse a folder on a disk that nobody can write to, or that has no room.

    Args:
        flag: As typed, for the message.
        place: What it says.
        folder: That will be used there; it need not exist yet, and is not made.
        num_bytes: That must fit in.

    Raises:
        ConfigError: Names the flag and the folder that is in the way.
    """
    there = folder
    try:
        there = on_a_disk(folder, lambda: nearest(folder))
        # Tried, because root may write "everywhere".
        on_a_disk(there, lambda: tempfile.TemporaryFile(dir=there).close())
    except OSError as error:
        raise ConfigError(
            f"{flag} {place} cannot be written: {there}: {error.strerror}. Give another place."
        ) from None
    free = Disk(folder, LOOK_AGAIN_SECONDS).free()
    if free is not None and free.num_files == 0:
        raise ConfigError(
            f"{flag} {place} has no room: no file can be made there (inodes). Make room."
        )
    if free is not None and free.num_bytes < num_bytes:
        raise ConfigError(
            f"{flag} {place} has no room: a checkpoint needs {num_bytes / 1e6:,.0f} MB, and "
            f"{free.num_bytes / 1e6:,.0f} MB are free. Make room, or give another place."
        )
