"""
Why ranks fail, and why a job has failed for good: words that they leave in the job's folder.

    with failure_report(folder, rank):
        train()
    read_failures(folder)[0].error     # of this start, what is the cause first
    write_outcome(folder, "rank 1: Killed. It is not started again.", "")

A failure file is written before the exception goes on its way; the first one is the cause, the others
are ranks that lost their peer. Which is the first no clock says: nodes have one each.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import time as utc_seconds

from instruct_core.errors import InstructError, LateSaveError, MissingError, SlurmError
from instruct_core.storage.looks import entries_in, is_there
from instruct_core.storage.patience import passes_on_a_disk
from jobs.causes import LOST_PEER
from jobs.job_folder import (
    AwayError,
    BadNodeError,
    describe_error,
    leave_word,
    read_record,
    this_start,
)
from jobs.patient import was_reading_code


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
        if is_there(path):
            return
        after = len(entries_in(folder, f"failure-{this_start()}-*.json"))
    failure = Failure(utc_seconds(), rank, node, error, trace, retry, away, after)
    unsaid = ("away", "after")  # where they are nothing
    said = {name: value for name, value in vars(failure).items() if value or name not in unsaid}
    leave_word(path, said)


def read_failures(folder: Path) -> list[Failure]:
    """Return the failures of this start, the first one first."""
    paths = entries_in(folder, f"failure-{this_start()}-*.json")
    failures = [failure for path in paths if (failure := read_record(path, Failure))]
    return sorted(failures, key=lambda failure: failure.order)


def newest_failure(folder: Path) -> Failure | None:
    """Return why the newest start of a job fails; None where it has not, or has not said so."""
    starts: dict[str, list[Path]] = {}
    for path in [*entries_in(folder, "progress-*.json"), *entries_in(folder, "failure-*.json")]:
        start = "-".join(path.stem.split("-")[1:3])
        starts.setdefault(start, []).append(path)
    newest = starts[max(starts)] if starts else []
    failures = [read_record(path, Failure) for path in newest if path.name.startswith("failure-")]
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
    leave_word(folder / "failed.json", asdict(Outcome(this_start(), error, trace, retry)))


def read_outcome(folder: Path) -> Outcome | None:
    """Return why the job has failed for good; None where it has not."""
    return read_record(folder / "failed.json", Outcome)


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
        # Nor what it refuses to a warned rank: one that had time would save later.
        away = away or isinstance(error, AwayError | LateSaveError) or was_reading_code(error)
        in_words = isinstance(error, InstructError | AwayError | BadNodeError | LateSaveError)
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
