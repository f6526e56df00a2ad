"""
Whether a folder on a disk keeps the promises of a checkpoint: room, hard links, locks and a clock.

    findings = check_disk("checkpoints_instruct", Path("checkpoints_instruct").resolve())
    findings.append(check_job_folder(Path("runs_instruct").resolve()))

Everything is tried in the nearest folder that is there, and removed again. What cannot be tried
because something before it fails is not told: one fault is one line.
"""

from __future__ import annotations

import os
import stat
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from time import time as utc_seconds

from instruct_core.checkpoints.steps import SPARE_BYTES
from instruct_core.config import PRESETS
from instruct_core.errors import ConfigError
from instruct_core.storage.backend import Free
from instruct_core.storage.disk import Disk
from instruct_core.storage.store import Store
from launch.checkup.finding import Finding, fails, note, ok, refused
from launch.cluster.lock import RunLock
from launch.console.lines import counted
from launch.runs.places import check_folder
from launch.training.fit import SAVED_BYTES_PER_PARAMETER

MODEL = "gpt2"  # finetune's default
CHECKPOINT_BYTES = SAVED_BYTES_PER_PARAMETER * PRESETS[MODEL].num_parameters + SPARE_BYTES
BYTES_OF_A_RUN = 50_000_000  # copies of the code, logs and curves: beside its checkpoints
FILES_OF_A_RUN = 1000  # copies of the code, logs, three checkpoints: with room to spare
# A job is warned 120 s ahead: clocks that differ by half of that make the warning worth little.
MOST_SKEW_SECONDS, SEEN_SKEW_SECONDS = 60.0, 2.0
ELSEWHERE = "Give --checkpoints another place"


def nearest_folder(folder: Path) -> Path:
    """Return the folder, or the one above it that is there, as far as this person may look."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            if place.exists():
                return place
    return Path("/")


def check_disk(place: str, folder: Path) -> list[Finding]:
    """
    Return what is found about a folder for checkpoints.

    Args:
        place: As it was typed, for messages.
        folder: What it means, absolute; it need not be there.
    """
    there = nearest_folder(folder)
    room = _room(there)
    if room.state == "would fail":
        return [room]
    try:
        check_folder("--checkpoints", place, folder, num_bytes=0)
    except (ConfigError, OSError) as error:
        return [refused("checkpoints", error, ELSEWHERE)]
    return [ok("checkpoints", f"{place} can be written"), room, *try_out(there)]


def try_out(there: Path) -> list[Finding]:
    """Return what trying out links, locks and the clock of a folder has found."""
    return [_links(there), _locks(there), _clock(there)]


def _free(there: Path) -> Free | None:
    try:
        return Disk(there).free()
    except OSError:  # whoever tries to write there says more
        return None


def _room(there: Path) -> Finding:
    free = _free(there)
    if free is None:
        return note("room", f"the disk of {there} does not tell how much is free")
    left = f"{_size(free.num_bytes)} free"
    needed = f"a checkpoint of {MODEL} needs {CHECKPOINT_BYTES / 1e9:.1f} GB"
    if free.num_bytes < CHECKPOINT_BYTES:
        return fails("room", f"{left} in {there}, and {needed}", "Make room, or give another place")
    if free.num_files is not None and free.num_files < FILES_OF_A_RUN:
        found = f"{counted(free.num_files, 'file')} can still be made in {there} (inodes)"
        return fails("room", found, f"Make room for {FILES_OF_A_RUN:,}, or give another place")
    return ok("room", f"{left}; {needed}")


def _links(there: Path) -> Finding:
    """Have two writers claim one file, as two attempts of a run would claim a step."""
    try:
        apart = Store(there).try_out()
    except OSError as error:
        found = f"the disk of {there} refuses a hard link: {error.strerror or error}"
        return fails("links", found, f"{ELSEWHERE}: a checkpoint is committed by one")
    if not apart:
        found = f"the disk of {there} lets two writers make one file"
        return fails("links", found, ELSEWHERE)
    return ok("links", "of two writers one makes a file")


def _locks(there: Path) -> Finding:
    """Take the lock of a run, and see whether another launcher would notice."""
    path = there / f".try-{uuid.uuid4().hex}.lock"
    lock = RunLock(path)
    remedy = f"Have it mounted with locks, or g{ELSEWHERE[1:]}"
    try:
        held = lock.acquire() and RunLock.is_held(path)
        works = RunLock.works(path)
    except OSError as error:
        return fails("flock", f"the disk of {there} refuses flock: {error.strerror}", remedy)
    finally:
        lock.close()
        path.unlink()
    if not works:
        found = f"the disk of {there} has no flock: a run whose host dies stays locked"
        return fails("flock", found, remedy)
    if not held:
        return fails("flock", f"the disk of {there} gives one lock to two", remedy)
    return ok("flock", "a second launcher of one run is kept off")


def _clock(there: Path) -> Finding:
    before = utc_seconds()
    with tempfile.NamedTemporaryFile(dir=there, prefix=".try-") as file:
        written_at = Path(file.name).stat().st_mtime
    skew = max(before - written_at, written_at - utc_seconds(), 0.0)
    found = f"this machine and the disk of {there} are {skew:,.0f} s apart"
    fix = "Have an administrator set the clocks of both (chronyc tracking)"
    if skew > MOST_SKEW_SECONDS:
        return fails("clock", found, fix)
    if skew > SEEN_SKEW_SECONDS:
        return note("clock", found, fix)
    return ok("clock", "that of the disk agrees")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.0f} MB"


def check_job_folder(place: Path, other: Path | None = None) -> Finding:
    """
    Return whether jobs can have their folders in one, and nobody else could change what they run.

    Args:
        place: Of all of them.
        other: Folder whose disk has been looked at: one fault is one line.
    """
    there = nearest_folder(place)
    free = None
    if other is None or nearest_folder(other).stat().st_dev != there.stat().st_dev:
        free = _free(there)
    if free is not None and (free.num_bytes < BYTES_OF_A_RUN or free.num_files == 0):
        left = f"{_size(free.num_bytes)} free"
        found = (
            f"no room in {there}: {'no file can be made (inodes)' if free.num_files == 0 else left}"
        )
        wanted = f"Make room for {_size(BYTES_OF_A_RUN)} of code, logs and curves a run"
        return fails("job folder", found, wanted)
    folder = there / f".try-{uuid.uuid4().hex}"
    try:
        folder.mkdir()  # as the folder of a job is made
        mode = stat.S_IMODE(folder.stat().st_mode)
        folder.rmdir()
    except OSError as error:
        found = f"no folder of a job can be made in {there}: {error.strerror}"
        return fails("job folder", found, "Type the command in a folder that you may write")
    found = f"new folders in {there} have the mode {mode:o}"
    if mode & stat.S_IWOTH:
        whoever = f"{found}: whoever has an account here could change what your jobs run"
        return fails("job folder", whoever, "Type first: umask 022")
    around = there.stat()
    if around.st_mode & stat.S_IWOTH and not around.st_mode & stat.S_ISVTX:
        open_to_all = f"{there} is open to everybody: the folder of a job could be replaced"
        return note("job folder", open_to_all, f"chmod o-w {there}")
    if mode & stat.S_IWGRP:
        whoever = f"{found}: members of group {os.getgid()} could change what your jobs run"
        return note("job folder", whoever, "If others are in it, type first: umask 022")
    return ok("job folder", f"only you can change what a job in {there} runs")
