"""
A look at many runs, of which some cannot be read: a bucket that does not answer is asked once.

    look = Look(Controller(for_all=True))
    rows = look.at_all("s3://bucket/runs", None, told_of_status, told_of_known_run)
    look.away               # ["s3://bucket does not answer: nothing within 6 s"]

Jobs have their folders on a disk, whatever else is in a bucket: they tell how far a run is, and Slurm
and its lock whether it goes on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from instruct_core.errors import ConfigError, InstructError
from instruct_core.storage.plain_errors import may_pass
from instruct_core.storage.store import Store
from jobs.job_folder import Progress, read_progress
from launch.cluster.job_folder import job_folders
from launch.cluster.lock import RunLock
from launch.cluster.slurm import Controller, SlurmJob
from launch.runs.places import absolute
from launch.runs.run import Run, runs_in
from launch.runs.status import RunStatus

ANSWER_SECONDS = 6.0  # for a listing, which takes a tenth of one
T = TypeVar("T")


@dataclass(frozen=True)
class KnownRun:
    """What is known of a run of which not all can be read."""

    name: str
    problem: str  # why not
    state: str = "unreadable"
    job: str = ""
    progress: Progress = field(default_factory=Progress)  # of its newest job

    def to_json(self) -> dict[str, Any]:
        """Return it as status has it in JSON, without what nobody has told."""
        told = self.progress
        document = {
            "run": self.name, "error": self.problem, "state": self.state, "job": self.job or None,
            "step": told.global_step, "max_steps": told.max_steps, "saved_step": told.committed,
            "loss": told.loss, "tokens_per_second": told.tokens_per_second, "attempt": told.attempt,
        }  # fmt: skip
        return {name: value for name, value in document.items() if value is not None}


@dataclass
class Look:
    """One look at the runs in a place, with whoever is asked about all of them."""

    controller: Controller
    _problems: dict[str, str] = field(default_factory=dict)  # by bucket; "" of one that answers

    @property
    def away(self) -> list[str]:
        """What is wrong with the buckets that did not answer, a line each."""
        return [problem for problem in self._problems.values() if problem]

    def at_all(
        self,
        checkpoints: str,
        runs: str | None,
        fully: Callable[[RunStatus], T],
        in_part: Callable[[KnownRun], T],
    ) -> list[T]:
        """
        Return what is told of each run, by name.

        Args:
            checkpoints: Where runs keep their checkpoints.
            runs: Where they keep their ledgers, if not where their settings say.
            fully: Tells of a run.
            in_part: Tells of one of which not all can be read.
        """
        if problem := self._problem_of(absolute(checkpoints)):
            return [in_part(known) for known in self._known_here(runs, problem)]
        return [self._at(run, fully, in_part) for run in runs_in(checkpoints, runs)]

    def at_part(self, name: str, checkpoints: str, runs: str | None) -> KnownRun | None:
        """
        Return what is known of a run whose bucket does not answer; None where it does.

        Raises:
            ConfigError: Nothing is known of it here; or as `Run.find`.
            MissingError: As `Run.find`.
        """
        Run.named(name, checkpoints)
        if problem := self._problem_of(absolute(checkpoints)):
            for known in self._known_here(runs, problem):
                if known.name == name:
                    return known
            raise ConfigError(f"Run {name} is not known here, and {problem}. Ask again later.")
        run = Run.find(name, checkpoints)
        run = replace(run, runs=absolute(runs) if runs else "")  # looked at once its bucket answers
        problem = self._problem_of(run.ledger.url)
        return self._known(run.name, run.job_parent, run.lock, problem) if problem else None

    def _at(self, run: Run, fully: Callable[[RunStatus], T], in_part: Callable[[KnownRun], T]) -> T:
        try:
            if problem := self._problem_of(run.store.url) or self._problem_of(run.ledger.url):
                return in_part(self._known(run.name, run.job_parent, run.lock, problem))
            run.refuse_foreign()
            return fully(RunStatus.at_a_glance(run, self.controller))
        except InstructError as error:
            return in_part(KnownRun(run.name, str(error)))
        except OSError as error:  # who answered before is asked again
            self._problems = {bucket: said for bucket, said in self._problems.items() if said}
            named = error.filename and error.strerror
            problem = f"{error.filename}: {error.strerror}" if named else str(error)
            return in_part(KnownRun(run.name, problem))

    def _known_here(self, runs: str | None, problem: str) -> list[KnownRun]:
        """Return what this disk tells of the runs whose checkpoints are in a bucket."""
        is_disk = runs is not None and "://" not in runs
        place = Path(absolute(runs if runs is not None and is_disk else "runs_instruct"))
        # Of a run whose checkpoints are on a disk the lock lies beside those.
        locks = sorted(place.glob("*/job/lock"))
        return [self._known(lock.parent.parent.name, lock.parent, lock, problem) for lock in locks]

    def _known(self, name: str, jobs: Path, lock: Path, problem: str) -> KnownRun:
        progress, job = Progress(), ""
        for folder in job_folders(jobs)[-1:]:
            progress = read_progress(folder)
        state = progress.state or "unknown"
        slurm = SlurmJob.found(lock.with_name("slurm.json"), self.controller)
        if slurm is not None:
            job = slurm.job_id
            state = slurm.state() if slurm.is_running() else state
        if RunLock.is_held(lock):
            state = "training here"
        name = (progress.ledger or name).rpartition("/")[2]  # a folder's may be longer
        return KnownRun(name, problem, state, job, progress)

    def _problem_of(self, place: str) -> str:
        """Return that the bucket of a place does not answer, and why; "" for all else."""
        bucket = _bucket_of(place)
        if bucket and bucket not in self._problems:
            error = _asked(place)
            self._problems[bucket] = "" if error is None else _line(bucket, error)
        return self._problems.get(bucket, "")


def _bucket_of(place: str) -> str:
    return "/".join(place.split("/")[:3]) if "://" in place and not Store(place).is_local else ""


def _line(bucket: str, error: OSError) -> str:
    return f"{bucket} does not answer: {str(error).rstrip('.')}"


def _asked(place: str) -> OSError | None:
    """Return why a bucket does not answer; None where it does, be it with a refusal."""
    store, answers = Store(place, patience_seconds=0.0), queue.SimpleQueue[OSError | None]()

    def ask() -> None:
        try:
            store.names()
        except OSError as error:
            answers.put(error if may_pass(error) else None)
        else:
            answers.put(None)

    # Its client may wait for minutes, and nobody waits for this thread.
    threading.Thread(target=ask, name="bucket", daemon=True).start()
    try:
        return answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        return TimeoutError(f"nothing within {ANSWER_SECONDS:.0f} s")
