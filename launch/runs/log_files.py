"""
The files that hold what a run or an array has logged, and whether there is more to come.

    source = log_source(Logs("my-run"))
    [file.path for file in source.files()]

A run has one log a job, of the rank that is asked for; an array one a task and job.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from instruct_core.errors import ConfigError, MissingError, SlurmError
from instruct_core.names import PLAIN_NAME
from instruct_core.storage.store import Store
from jobs.slurm import JobRecord
from launch.cluster.job_folder import array_parent, job_folders
from launch.cluster.slurm import SlurmJob, array_job
from launch.flags.logs import Logs
from launch.runs.places import absolute, check_looked_in
from launch.runs.run import Run
from launch.runs.status import RunStatus

LOG = re.compile(r"(\d+)_(\d+)_log\.out")  # job and rank
ARRAY_LOG = re.compile(r"(\d+)_(\d+)_0_log\.out")
TASK_FOLDER = re.compile(r"task-(\d+)")


class LogFile(NamedTuple):
    """A log, and the array task that wrote it; None for a run's."""

    path: Path
    task: int | None


@dataclass
class RunLog:
    """What one rank of a run has logged, over all its jobs."""

    status: RunStatus
    rank: int

    @property
    def what(self) -> str:
        """Whose log it is, for messages."""
        rank = f"Rank {self.rank} of run" if self.rank else "Run"
        return f"{rank} {self.status.run.name}"

    def files(self) -> list[LogFile]:
        """Return the logs, oldest first."""
        return [
            LogFile(path, None)
            for folder in self.status.job_folders()
            for path in _logs_in(folder, self.rank)
        ]

    def last_rank(self) -> int | None:
        """Return the highest rank that has logged; None where none has."""
        names = [p.name for f in self.status.job_folders() for p in f.glob("*_*_log.out")]
        return max((int(log[2]) for log in map(LOG.fullmatch, names) if log), default=None)

    def records(self) -> list[JobRecord]:
        """Return what Slurm knows about its job; [] where nobody can tell."""
        return self.status.records()

    def goes_on(self) -> bool:
        """Return True as long as a job of it waits or runs, and not for ever."""
        return self.status.is_active() and not self.status.never_starts()

    def never_starts(self) -> bool:
        """Return True if it waits for ever."""
        return self.status.never_starts()

    def state(self) -> str:
        """Return its state in a word or two."""
        return RunStatus.of(self.status.run).state()  # as it is now


@dataclass
class ArrayLog:
    """What the tasks of an array have logged, or one of them, in its newest job folder."""

    what: str
    folder: Path
    job: SlurmJob | None
    task: int | None

    def tasks(self) -> list[int]:
        """Return the tasks that have logged, whichever is asked for."""
        return [file.task for file in replace(self, task=None).files() if file.task is not None]

    def files(self) -> list[LogFile]:
        """Return the logs, by task."""
        here = [
            LogFile(path, int(found[1]))
            for folder in self.folder.glob("task-*")
            if (found := TASK_FOLDER.fullmatch(folder.name))
            for path in _logs_in(folder, rank=0)
        ]
        ids = self.job.job_ids if self.job is not None else []
        firsts = sorted(
            int(found[1])
            for script in self.folder.glob("job-*.sh")
            if (found := re.fullmatch(r"job-(\d+)\.sh", script.name))
        )
        # Large arrays are several jobs, each with numbers of its own from 0 on.
        first_of = dict(zip(ids, firsts, strict=True)) if len(ids) == len(firsts) else {}
        on_slurm = [
            LogFile(path, int(found[2]) + first_of.get(found[1], 0))
            for path in self.folder.glob("*_0_log.out")
            if (found := ARRAY_LOG.fullmatch(path.name))
        ]
        files = sorted(here + on_slurm, key=lambda file: (file.task, _job_of(file.path)))
        return [file for file in files if self.task in (None, file.task)]

    def records(self) -> list[JobRecord]:
        """Return what Slurm knows about its jobs; [] where nobody can tell."""
        try:
            return self.job.records() if self.job is not None else []
        except SlurmError:
            return []

    def goes_on(self) -> bool:
        """Return True as long as a task waits or runs, and not for ever."""
        return self.job is not None and self.job.is_running() and not self.job.never_starts()

    def never_starts(self) -> bool:
        """Return True if it waits for ever."""
        return self.job is not None and self.job.never_starts()

    def state(self) -> str:
        """Return its state in a word or two."""
        return (self.job.summary() if self.job is not None else "") or "ended"


def log_source(flags: Logs) -> RunLog | ArrayLog:
    """
    Return whose log is meant: a run, or what makes a shard set or answers.

    Raises:
        ConfigError: A flag goes with the other kind alone, or the name is no plain one.
        MissingError: There is nothing of the name, or no such rank or task of what has ended.
    """
    for flag, number in (("--task", flags.task), ("--rank", flags.rank)):
        if number is not None and number < 0:
            raise ConfigError(f"{flag} must be at least 0, got {number}.")
    check_looked_in("--shards", flags.shards, may_be_missing=flags.shards == Logs.shards)
    array = _array(flags)
    if array is None:
        if not PLAIN_NAME.fullmatch(flags.run):
            raise ConfigError(
                "RUN must be a run's plain name, or name or place of a shard set or of answers that an "
                f"array makes, got {flags.run!r}: no tasks have logged anything there."
            )
        _refuse_unlogged(flags)
        run = Run.find(flags.run, flags.checkpoints, flags.runs)
        if flags.task is not None:
            raise ConfigError(f"--task is of an array, and {flags.run} is a run. Use --rank.")
        log = RunLog(RunStatus.of(run), flags.rank)
        last = log.last_rank()
        if last is not None and flags.rank > last and not log.goes_on():
            raise MissingError(
                f"--rank must be at most {last}, got {flags.rank}: no other rank of run {flags.run} has "
                "logged anything."
            )
        return log
    if flags.rank:
        raise ConfigError(f"--rank is of a run, and {array.what} is an array. Use --task.")
    tasks = array.tasks()
    if tasks and flags.task not in (None, *tasks) and not array.goes_on():
        raise MissingError(
            f"--task {flags.task} is not there: of the tasks that logged anything in {array.folder} the "
            f"first is {tasks[0]} and the last {tasks[-1]}."
        )
    return array


def _array(flags: Logs) -> ArrayLog | None:
    """Return the array of a name or place; None where a run has the name, or there is none."""
    if PLAIN_NAME.fullmatch(flags.run) and Run.named(flags.run, flags.checkpoints).exists():
        return None
    for place in (flags.run, f"{flags.run}.parts", f"{flags.shards}/{flags.run}"):
        if not flags.run:
            continue
        store = Store(absolute(place))
        if folders := job_folders(array_parent(store)):
            job = array_job(store)
            what = flags.run if flags.task is None else f"Task {flags.task} of {flags.run}"
            return ArrayLog(what, job.folder if job else folders[-1], job, flags.task)
    return None


def _refuse_unlogged(flags: Logs) -> None:
    place = f"{flags.shards}/{flags.run}"
    is_run = Run.named(flags.run, flags.checkpoints).exists()
    if not is_run and Store(absolute(place)).exists("plan.json"):
        raise MissingError(
            f"Shard set {place} has no log: no tasks made it, and the command itself said all there was."
        )


def _logs_in(folder: Path, rank: int) -> list[Path]:
    """Return the logs of a rank, oldest first: a folder may hold others' files of such names."""
    found = [path for path in folder.glob(f"*_{rank}_log.out") if LOG.fullmatch(path.name)]
    return sorted(found, key=_job_of)


def _job_of(path: Path) -> int:
    return int(path.name.split("_")[0])
