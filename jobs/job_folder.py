"""
What a job leaves in its folder for those who wait for it: how far it is.

    write_progress(folder, Progress(state="running", global_step=12, committed=10))
    read_progress(folder).committed             # 10, also where a newer version has written more

`committed` counts what a restart would not have to do again: it decides whether a crashed job
made progress. Why one failed stands in jobs/failures.py.

Every start of a job has files of its own (`INSTRUCT_START`, which grows): processes of an earlier
start that still live on a lost node cannot be taken for the present one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import time as utc_seconds
from typing import Any, TypeVar

from instruct_core.converter import structure
from instruct_core.errors import InstructError
from instruct_core.storage.json_text import loose_json
from instruct_core.storage.looks import entries_in
from instruct_core.storage.names import gone_if_it_fails, scratch_of
from instruct_core.storage.patience import on_a_disk, patiently
from instruct_core.storage.plain_errors import is_refusal, may_pass
from instruct_core.storage.plain_file import text_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

LEAD = "INSTRUCT_LEAD"  # seconds from Slurm's warning to its kill
LOG = "INSTRUCT_LOG"  # what the batch script and rank 0 write
SCRIPT = "INSTRUCT_SCRIPT"  # the batch script itself
SETUP_ENDED = "=== setup: a line ended with"  # in the log, before a code and the line of --setup
JOB_IDS = "job_ids"  # ids of this script's jobs, in the order of their submission
TOLD_TO_END = "INSTRUCT_TOLD_TO_END"  # set where the batch script was sent TERM

READ_SECONDS = 60.0  # with a disk that does not answer, before what it has counts as unknown
START = "INSTRUCT_START"  # number of this start, set by the batch script or the local controller
SRUN_SAID = "INSTRUCT_SRUN_SAID"  # exit code of srun, for what is asked after it
ASKS_BACK = 84  # exit code of ranks that have saved and could not requeue their job themselves
INSIDE = "INSTRUCT_INSIDE"  # starts of this allocation so far, where it can start again in it
SPARE_NODES = "INSTRUCT_SPARE_NODES"  # nodes of the allocation that no rank runs on
LEFT_OUT = "INSTRUCT_LEFT_OUT"  # which these are, where one was at fault; _FILE: where it stands
FOLDER = "INSTRUCT_JOB"  # folder of the job, or of one task of an array
FAILED_CHECK = "failed the check of its first seconds"  # what a BadNodeError says


class AwayError(OSError):
    """A disk or a store that does not answer where a job cannot begin without it."""


class BadNodeError(RuntimeError):
    """A node that failed the check of its first seconds; every rank says which."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message)
        self.node = node


def job_folder() -> Path:
    """Return the folder of the job, or of the array task, that this process belongs to."""
    return Path(os.environ[FOLDER])


def this_start() -> str:
    """Return the number of this start of the job; later ones sort after it."""
    return os.environ[START]


def place_of(start: str) -> tuple[int, int]:
    """Return how often a job had been requeued before a start, and started again since: 7-0002x001."""
    requeues, _, inside = start.rpartition("-")[2].partition("x")
    return int(requeues or 0), int(inside or 0)


@dataclass(frozen=True)
class Progress:
    """How far a start of a job is; what is None is not known yet, and not written."""

    start: str = ""  # set when it is written, as the next
    updated_at: float = 0.0
    ledger: str | None = None  # place of a run's
    max_steps: int | None = None
    world_size: int | None = None
    state: str | None = None
    attempt: int | None = None
    global_step: int | None = None
    stepped_at: float | None = None  # UTC seconds; None while it does anything but steps
    step_seconds: float | None = None  # that one takes; 0 before that is known
    committed: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    val_loss: float | None = None
    peak_bytes: int | None = None


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace this start's progress; a reader sees the old or the new one, never a part."""
    now = replace(progress, start=this_start(), updated_at=utc_seconds())
    document = {name: value for name, value in vars(now).items() if value is not None}
    replace_json(folder / f"progress-{this_start()}.json", document)


def read_progress(folder: Path) -> Progress:
    """Return the progress of the newest start of a job; all is None before the first report."""
    for path in reversed(entries_in(folder, "progress-*.json")):
        return read_record(path, Progress) or Progress()
    return Progress()


def read_all_progress(folder: Path) -> list[Progress]:
    """Return the progress of every start of a job, oldest first."""
    paths = entries_in(folder, "progress-*.json")
    return [progress for path in paths if (progress := read_record(path, Progress))]


def read_record(path: Path, kind: type[T]) -> T | None:
    """Return a record; None where there is nothing, or a lost node left half of it."""
    try:
        return structure(loose_json(text_of(path)), kind, str(path))
    except (FileNotFoundError, ValueError):
        return None


def or_unknown(read: Callable[[], T], unknown: T) -> T:
    """Return what is read, asked for several times; ``unknown`` where the disk never answers."""
    try:
        return patiently(read, READ_SECONDS, lambda _: True)
    except OSError as error:
        logger.warning("The job's folder could not be read: %s", error)
        return unknown


def read_json(path: Path) -> dict[str, Any]:
    """Return what `replace_json` wrote; {} where there is nothing, or a lost node left half of it."""
    try:
        document = loose_json(text_of(path))
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def replace_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_of(path)
    with gone_if_it_fails(scratch):
        scratch.write_text(json.dumps(document), encoding="utf-8")
        scratch.replace(path)


def leave_word(path: Path, document: dict[str, Any]) -> None:
    """Write a document if the disk lets us: a job must not end of what it wants to say."""
    try:
        on_a_disk(path, lambda: replace_json(path, document))
    except OSError as error:
        logger.warning("%s could not be written: %s. It says: %s", path, error, document)


@contextmanager
def store_may_be_away() -> Iterator[None]:
    """
    Raise what a disk or a store refuses for a while as AwayError, which is no crash of the job.

    A store's 403 too: the launcher was let in, and keys are changed, and clocks set right, on the way.
    """
    try:
        yield
    except InstructError:
        raise
    except OSError as error:
        if is_refusal(error):
            raise AwayError(f"a store refuses us: {error}") from error
        if may_pass(error):
            raise AwayError(
                f"a disk or a store does not answer: {describe_error(error)}"
            ) from error
        raise


def describe_error(error: BaseException) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {error}"
