"""
Whether a folder on a disk keeps the promises of a checkpoint: room, hard links, locks and a clock.

    findings = check_disk("checkpoints_instruct")
    findings.append(check_job_folder("runs_instruct"))

Everything is tried in the nearest folder that is there, and removed again. What cannot be tried
because something before it fails is not told: one fault is one line.
"""

from __future__ import annotations

import os
import stat
import tempfile
import uuid
from pathlib import Path
from time import time as utc_seconds

from instruct_core.checkpoints.steps import SPARE_BYTES
from instruct_core.config import PRESETS
from instruct_core.errors import ConfigError
from instruct_core.storage.disk import Disk
from instruct_core.storage.store import Store
from launch.checkup.finding import Finding, fails, note, ok, refused
from launch.cluster.lock import RunLock
from launch.console.lines import counted
from launch.runs.places import check_folder
from launch.training.fit import SAVED_BYTES_PER_PARAMETER

MODEL = "gpt2"  # finetune's default
CHECKPOINT_BYTES = SAVED_BYTES_PER_PARAMETER * PRESETS[MODEL].num_parameters + SPARE_BYTES
FILES_OF_A_RUN = 1000  # copies of the code, logs, three checkpoints: with room to spare
# A job is warned 120 s ahead: clocks that differ by half of that make the warning worth little.
MOST_SKEW_SECONDS, SEEN_SKEW_SECONDS = 60.0, 2.0
ELSEWHERE = "Give --checkpoints another place"


def nearest_folder(place: str) -> Path:
    """Return the folder, or the one above it that is there."""
    folder = Path(place).resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def check_disk(place: str) -> list[Finding]:
    """Return what is found about a folder for checkpoints."""
    there = nearest_folder(place)
    try:
        check_folder("--checkpoints", place, Path(place).resolve(), CHECKPOINT_BYTES)
    except ConfigError as error:
        return [refused("checkpoints", error)]
    files = _files(there)
    if files.state == "would fail":
        return [files]
    return [ok("checkpoints", f"{place} can be written"), files, *try_out(there)]


def try_out(there: Path) -> list[Finding]:
    """Return what trying out links, locks and the clock of a folder has found."""
    return [_links(there), _locks(there), _clock(there)]


def _files(there: Path) -> Finding:
    free = Disk(there).free()
    if free is None:
        return note("room", f"the disk of {there} does not tell how much is free")
    needed = f"a checkpoint of {MODEL} needs {CHECKPOINT_BYTES / 1e9:.1f} GB"
    if free.num_files is not None and free.num_files < FILES_OF_A_RUN:
        found = f"{counted(free.num_files, 'file')} can still be made in {there} (inodes)"
        return fails("room", found, f"Make room for {FILES_OF_A_RUN:,}, or give another place")
    return ok("room", f"{free.num_bytes / 1e9:,.1f} GB free; {needed}")


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
    path = there / f".try-{uuid.uuid4().hex}.lock"
    lock = RunLock(path)
    try:
        held = lock.acquire() and RunLock.is_held(path)
    except OSError as error:
        found = f"the disk of {there} refuses flock: {error.strerror or error}"
        return fails("flock", found, f"Have it mounted with locks, or g{ELSEWHERE[1:]}")
    finally:
        lock.close()
        path.unlink()
    if not held:
        found = f"the disk of {there} gives one lock to two"
        return fails("flock", found, f"Have it mounted with locks, or g{ELSEWHERE[1:]}")
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


def check_job_folder(place: str) -> Finding:
    """Return whether anybody else could change what a job will run."""
    there = nearest_folder(place)
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
