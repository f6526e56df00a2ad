"""
Work that an array of tasks shares, each task its own parts: shards, or answers.

    work = Work(what="Shards", name="shards-alpaca", parent=folder, num_parts=64, ...)
    exit_code = carry_out(work, todo=[7, 12], flags=flags, request=request, parallelism_here=2)

An array larger than the cluster allows (MaxArraySize) becomes several. Only tasks with work are
queued; one that fails or is preempted comes back alone. The job's note lies in the folder of the
jobs, so that a fine-tuning job can wait for shards that are still being made.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from instruct_core.errors import ConfigError
from jobs.job_folder import read_outcome
from launch.cluster.frozen_code import freeze_code
from launch.cluster.job_folder import new_job_folder
from launch.cluster.local import LocalJob, submit_local
from launch.cluster.partition import cluster_limits
from launch.cluster.request import Request, resources_of
from launch.cluster.script import Resources, array_text, batch_script
from launch.cluster.slurm import SlurmJob, submit_slurm, test_submission
from launch.console.display import progress_bar
from launch.console.lines import EXIT_FAILED, say
from launch.flags.slurm import SlurmFlags

PARALLELISM = 128
POLL_SECONDS = 2.0
LOCAL_POLL_SECONDS = 0.05


class ArrayFlags(Protocol):
    """What a launcher of an array lets a person choose."""

    @property
    def num_tasks(self) -> int: ...
    @property
    def array_parallelism(self) -> int | None: ...
    @property
    def follow(self) -> bool: ...
    @property
    def slurm(self) -> SlurmFlags: ...


@dataclass(frozen=True)
class Work:
    """What the tasks of an array make together."""

    what: str  # "Shards", for bars and messages
    parts: str  # what they are called one by one
    name: str  # of the job
    parent: Path  # where its jobs have their folders
    num_parts: int
    task: Callable[[int], Callable[[], Any]]  # what a task runs, or an array that begins with it
    num_missing: Callable[[], int]
    is_ready: Callable[[], bool]
    report_ready: Callable[[], None]
    next_step: str  # what can be typed now that it is queued

    @property
    def num_done(self) -> int:
        """Parts that are there."""
        return self.num_parts - self.num_missing()


class TaskArray:
    """
    The array jobs that do one work on Slurm.

    Args:
        work: What they make.
        flags: What every task asks of Slurm.
        request: What the partition gives.
        parallelism: Tasks that run at a time at most.
    """

    def __init__(
        self, work: Work, flags: SlurmFlags, request: Request, parallelism: int | None
    ) -> None:
        self._work, self._flags, self._request = work, flags, request
        self._parallelism = parallelism or PARALLELISM

    def show(self, tasks: Sequence[int]) -> None:
        """Print the batch scripts that `submit` would queue; Slurm judges them too."""
        folder = self._work.parent / "NEXT"
        for resources in self._arrays(tasks):
            test_submission(folder, resources)
            say(f"\n{batch_script(folder, resources)}")

    def submit(self, tasks: Sequence[int]) -> SlurmJob:
        """Queue the tasks, and say so; return the job."""
        work = self._work
        arrays = list(self._arrays(tasks))
        for note in (f"Where: {self._request.where}", *self._request.notes):
            say(note)
        for resources in arrays:
            test_submission(work.parent, resources)
        folder = new_job_folder(work.parent)
        freeze_code(folder)
        job = SlurmJob(folder)
        for resources in arrays:
            job_id = submit_slurm(work.task(resources.first_task), folder, resources)
            job.write_note(work.parent / "slurm.json")
            say(f"Job {job_id}: array {resources.array} of partition {self._request.partition}")
        say(f"{work.what}: {len(tasks)} tasks make what is missing; logs in {folder}")
        say(work.next_step)
        return job

    def _arrays(self, tasks: Sequence[int]) -> Iterator[Resources]:
        """Yield what to ask for, one array of at most MaxArraySize after the other."""
        most = cluster_limits().max_array_size
        if most < 2:
            raise ConfigError(
                "Slurm allows no array jobs here (MaxArraySize). Use --cluster local."
            )
        one = resources_of(self._work.name, self._flags, self._request)
        # Two arrays share what may run at a time.
        firsts = sorted({task // most * most for task in tasks})
        parallelism = max(1, self._parallelism // len(firsts))
        for first in firsts:
            numbers = [task - first for task in tasks if first <= task < first + most]
            array = f"{array_text(numbers)}%{parallelism}"
            yield replace(one, array=array, first_task=first)


def tasks_of(todo: Sequence[int], num_tasks: int) -> list[int]:
    """Return the tasks that have parts to make; one where all are there and only the end is missing."""
    return sorted({part % num_tasks for part in todo}) or [0]


def show(work: Work, todo: Sequence[int], flags: ArrayFlags, request: Request | None) -> None:
    """Say which task would make which parts, and print the batch scripts on Slurm."""
    for task in range(flags.num_tasks):
        if mine := [part for part in todo if part % flags.num_tasks == task]:
            say(f"  task {task}: {work.parts} {array_text(mine).replace(',', ', ')}")
    if request is not None:
        array = TaskArray(work, flags.slurm, request, flags.array_parallelism)
        array.show(tasks_of(todo, flags.num_tasks))


def carry_out(
    work: Work,
    todo: Sequence[int],
    flags: ArrayFlags,
    request: Request | None,
    parallelism_here: int,
) -> int:
    """
    Have tasks make what is missing; return the exit code.

    Args:
        work: What they make.
        todo: The parts that are missing.
        flags: How they run.
        request: What the partition gives; None runs them on this machine.
        parallelism_here: Tasks that run at a time on this machine, if that is not in the flags.
    """
    tasks = tasks_of(todo, flags.num_tasks)
    if request is None:
        return run_here(work, tasks, flags.array_parallelism or parallelism_here)
    job = TaskArray(work, flags.slurm, request, flags.array_parallelism).submit(tasks)
    return follow_array(work, job) if flags.follow else 0


def follow_array(work: Work, job: SlurmJob) -> int:
    """Show how many parts are there until the jobs have ended; return the exit code."""
    try:
        with progress_bar(work.what) as bar:
            shown = bar.add_task("", total=work.num_parts)
            while job.is_running():
                bar.update(shown, completed=work.num_done)
                time.sleep(POLL_SECONDS)
            bar.update(shown, completed=work.num_done)
    except KeyboardInterrupt:
        say(f"Stopped watching; the jobs go on. End them: scancel {' '.join(job.job_ids)}")
        return 0
    failed = sorted(path.parent for path in job.folder.glob("task-*/failed.json"))
    if failed or not work.is_ready():
        return report_failures(failed, len(list(job.folder.glob("task-*"))))
    work.report_ready()
    return 0


def run_here(work: Work, tasks: Sequence[int], parallelism: int) -> int:
    """Run the tasks on this machine, a few at a time; return the exit code."""
    folder = new_job_folder(work.parent)
    freeze_code(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends the tasks too
    say(f"Job: {len(tasks)} tasks, logs in {folder}")
    waiting, running, failed = list(tasks), list[LocalJob](), list[LocalJob]()
    with progress_bar(work.what) as bar:
        shown = bar.add_task("", total=work.num_parts)
        try:
            while waiting or running:
                while waiting and len(running) < parallelism:
                    number, *waiting = waiting
                    place = folder / f"task-{number:05d}"
                    running.append(submit_local(work.task(number), place, num_tasks=1, code=folder))
                time.sleep(LOCAL_POLL_SECONDS)
                failed += [run for run in running if not run.is_running() and run.exit_code() != 0]
                running = [run for run in running if run.is_running()]
                bar.update(shown, completed=work.num_done)
        except BaseException:
            for run in running:
                run.warn(signal.SIGKILL)  # takes its task along; a part is whole or not there
            say("Stopped. Give the same command again to make what is missing.")
            raise
    if failed:
        return report_failures([run.folder for run in failed], len(tasks))
    work.report_ready()
    return 0


def report_failures(folders: Sequence[Path], num_tasks: int) -> int:
    """Say why tasks failed, on one line; return the exit code."""
    outcomes = [outcome for folder in folders if (outcome := read_outcome(folder))]
    reason = outcomes[0].error if outcomes else "they were killed, or cancelled."
    print(
        f"error: {len(folders)} of {num_tasks} tasks failed: {reason} Give the same command again "
        "to make what is missing.",
        file=sys.stderr,
    )
    return EXIT_FAILED
