"""
What a job leaves in its folder for those who wait for it: how far it is, and why it failed.

    write_progress(folder, Progress(state="running", global_step=12, committed=10))
    read_progress(folder).committed             # 10, also where a newer version has written more
    with failure_report(folder, rank): ...

`committed` counts what a restart would not have to do again: it decides whether a crashed job
made progress. A failure file is written before the exception goes on its way; the first one is the
cause, the others are ranks that lost their peer. Which is the first no clock says: nodes have one each.

Every start of a job has files of its own (`INSTRUCT_START`, which grows): processes of an earlier
start that still live on a lost node cannot be taken for the present one.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import time as utc_seconds
from typing import Any, TypeVar

from instruct_core.converter import structure
from instruct_core.errors import InstructError, MissingError, SlurmError
from instruct_core.storage.names import scratch_of
from instruct_core.storage.patience import on_a_disk, passes_on_a_disk, patiently
from instruct_core.storage.plain_errors import may_pass
from jobs.causes import LOST_PEER
from jobs.patient import was_reading_code

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
    for path in sorted(folder.glob("progress-*.json"), reverse=True):
        return _read(path, Progress) or Progress()
    return Progress()


def read_all_progress(folder: Path) -> list[Progress]:
    """Return the progress of every start of a job, oldest first."""
    paths = sorted(folder.glob("progress-*.json"))
    return [progress for path in paths if (progress := _read(path, Progress))]


def _read(path: Path, kind: type[T]) -> T | None:
    """Return a record; None where there is nothing, or a lost node left half of it."""
    try:
        return structure(json.loads(path.read_text(encoding="utf-8")), kind, str(path))
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
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def replace_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_of(path)
    try:
        scratch.write_text(json.dumps(document), encoding="utf-8")
        scratch.replace(path)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise


def _leave_word(path: Path, document: dict[str, Any]) -> None:
    """Write a document if the disk lets us: a job must not end of what it wants to say."""
    try:
        on_a_disk(path, lambda: replace_json(path, document))
    except OSError as error:
        logger.warning("%s could not be written: %s. It says: %s", path, error, document)


@contextmanager
def failure_report(folder: Path, rank: int) -> Iterator[None]:
    """Write down an exception that passes, and let it pass."""
    try:
        yield
    except Exception as error:
        # What is missing was there when the job was queued: another look, or another node, may see it.
        retry = not isinstance(error, InstructError) or isinstance(error, SlurmError | MissingError)
        # What a disk refuses for a while is no crash either, wherever it comes in the way.
        away = isinstance(error, OSError) and passes_on_a_disk(error)
        away = away or isinstance(error, AwayError) or was_reading_code(error)
        in_words = isinstance(error, InstructError | AwayError | BadNodeError)
        write_failure(
            folder,
            rank,
            error=str(error) if in_words else describe_error(error),
            trace=traceback.format_exc(),
            retry=retry,
            # Neither a person's mistake nor a store that is away is the fault of a node.
            node=getattr(error, "node", None) if retry and not away else "",
            away=away,
        )
        raise


@contextmanager
def store_may_be_away() -> Iterator[None]:
    """Raise what a disk or a store refuses for a while as AwayError, which is no crash of the job."""
    try:
        yield
    except InstructError:
        raise
    except OSError as error:
        if may_pass(error):
            raise AwayError(
                f"a disk or a store does not answer: {describe_error(error)}"
            ) from error
        raise


def describe_error(error: BaseException) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Failure:
    """Why a rank fails."""

    utc_seconds: float
    rank: int
    node: str  # what is to blame; "" where nobody knows
    error: str  # one line
    traceback: str
    retry: bool  # False for what a person has to fix first
    away: bool = False  # a store did not answer: no crash of the job
    after: int = 0  # reports of this start that lay there before

    @property
    def order(self) -> tuple[bool, int, float]:
        """Sorts first what is the cause: nodes' clocks decide only what nothing else does."""
        return bool(LOST_PEER.search(self.error)), self.after, self.utc_seconds


def write_failure(
    folder: Path,
    rank: int,
    error: str,
    trace: str,
    retry: bool,
    node: str | None = None,
    away: bool = False,
) -> None:
    """
    Write down why a rank fails; its first word of this start counts.

    Args:
        folder, rank: Of the job; who fails.
        error, trace: One line; where it was.
        retry: False for what a person has to fix first.
        node: What is to blame, if not this node.
        away: A store did not answer.
    """
    node = os.environ.get("SLURMD_NODENAME", "") if node is None else node
    path, after = folder / f"failure-{this_start()}-{rank}.json", 0
    with suppress(OSError):
        if path.exists():
            return
        after = len(list(folder.glob(f"failure-{this_start()}-*.json")))
    failure = Failure(utc_seconds(), rank, node, error, trace, retry, away, after)
    unsaid = ("away", "after")  # where they are nothing
    said = {name: value for name, value in vars(failure).items() if value or name not in unsaid}
    _leave_word(path, said)


def read_failures(folder: Path) -> list[Failure]:
    """Return the failures of this start, the first one first."""
    paths = sorted(folder.glob(f"failure-{this_start()}-*.json"))
    failures = [failure for path in paths if (failure := _read(path, Failure))]
    return sorted(failures, key=lambda failure: failure.order)


def newest_failure(folder: Path) -> Failure | None:
    """Return why the newest start of a job fails; None where it has not, or has not said so."""
    starts: dict[str, list[Path]] = {}
    for path in [*folder.glob("progress-*.json"), *folder.glob("failure-*.json")]:
        start = "-".join(path.stem.split("-")[1:3])
        starts.setdefault(start, []).append(path)
    newest = starts[max(starts)] if starts else []
    failures = [_read(path, Failure) for path in newest if path.name.startswith("failure-")]
    return min(filter(None, failures), key=lambda failure: failure.order, default=None)


@dataclass(frozen=True)
class Outcome:
    """Why a job has failed for good."""

    start: str
    error: str
    traceback: str
    retry: bool  # as in a failure


def write_outcome(folder: Path, error: str, trace: str, retry: bool = True) -> None:
    """Write down that the job has failed for good, and why; ``retry`` as in a failure."""
    _leave_word(folder / "failed.json", asdict(Outcome(this_start(), error, trace, retry)))


def read_outcome(folder: Path) -> Outcome | None:
    """Return why the job has failed for good; None where it has not."""
    return _read(folder / "failed.json", Outcome)
