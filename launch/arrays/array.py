"""
Have an array of tasks make what is missing of a work: here, or on Slurm.

    exit_code = make(work, flags.array, flags.slurm, request, parallelism_here=2)

An array larger than the cluster allows (MaxArraySize) becomes several. Only tasks with work are
queued; one that fails or is preempted comes back alone. The job's note lies in the folder of the
jobs, so that a fine-tuning job can wait for shards that are still being made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from instruct_core.errors import ConfigError
from jobs.queueing import settle
from launch.arrays.alone import alone
from launch.arrays.here import AGAIN, run_here, run_in_process, say_failures, write_at_hand
from launch.arrays.joining import note_asked, refuse_changes
from launch.arrays.work import Work
from launch.cluster.lock import RunLock
from launch.cluster.lost import adopt_lost, folder_to_submit
from launch.cluster.machine import CLUSTERS
from launch.cluster.partition import cluster_limits
from launch.cluster.request import Request, resources_of
from launch.cluster.script import Resources, array_text, batch_script, notes_on
from launch.cluster.slurm import (
    NEVER_STARTS_HELP,
    UNKNOWN,
    SlurmJob,
    running_array,
    submit_slurm,
    test_submission,
)
from launch.console.display import progress_bar
from launch.console.lines import EXIT_FAILED, note, say, say_whole
from launch.flags.array import ArrayFlags
from launch.flags.site import Site
from launch.flags.slurm import SlurmFlags, without_slurm

PARALLELISM = 128
POLL_SECONDS = 2.0


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

    def preview(self, tasks: Sequence[int]) -> list[str]:
        """Return what `submit` would say, and the batch scripts it would queue; Slurm judges them too."""
        folder = self._work.parent / "NEXT"
        arrays = list(self._arrays(tasks))
        for resources in arrays:
            test_submission(folder, resources)
        scripts = (f"\n{batch_script(folder, resources)}" for resources in arrays)
        return [*self._about(arrays), *scripts]

    def submit(self, tasks: Sequence[int]) -> SlurmJob:
        """Queue the tasks, and say so; return the job."""
        work = self._work
        arrays = list(self._arrays(tasks))
        for line in self._about(arrays):
            say(line)
        for resources in arrays:
            test_submission(work.parent, resources)
        with folder_to_submit(work.parent) as folder:
            note_asked(folder, work.flags)
            job = SlurmJob(folder, cluster=os.environ.get(CLUSTERS, ""))
            for resources in arrays:
                job_id = submit_slurm(work.task(resources.first_task), folder, resources)
                job.write_note(work.parent / "slurm.json")
                say(f"Job {job_id}: array {resources.array} of partition {self._request.partition}")
        settle(folder)
        say(f"{work.what}: {work.counted(tasks)} for what is missing; logs in {folder}")
        say(work.next_step)
        return job

    def _about(self, arrays: Sequence[Resources]) -> list[str]:
        """Return lines on where the tasks go, and what they ask for beyond the usual."""
        where = [f"Where: {self._request.where}", *self._request.notes, *notes_on(arrays[0])]
        site = Site.found().line(type(self._work.flags).__name__.lower())
        return [*where, f"Site: {site}"] if site else where

    def _arrays(self, tasks: Sequence[int]) -> Iterator[Resources]:
        """Yield what to ask for, one array of at most MaxArraySize after the other."""
        most = cluster_limits().max_array_size
        if most < 2:
            raise ConfigError(
                "Slurm allows no array jobs here (MaxArraySize). Use --cluster local."
            )
        one = resources_of(self._work.name, self._flags, self._request, places=self._work.places)
        # Two arrays share what may run at a time.
        firsts = sorted({task // most * most for task in tasks})
        parallelism = max(1, self._parallelism // len(firsts))
        for first in firsts:
            numbers = [task - first for task in tasks if first <= task < first + most]
            array = f"{array_text(numbers)}%{parallelism}"
            yield replace(one, array=array, first_task=first)


def make(
    work: Work, flags: ArrayFlags, slurm: SlurmFlags, request: Request | None, parallelism_here: int
) -> int:
    """
    Have tasks make what is missing of a work, and say what happens; return the exit code.

    Args:
        work: What they make.
        flags: How they run.
        slurm: What every task asks of Slurm.
        request: What the partition gives; None runs them on this machine.
        parallelism_here: Tasks that run at a time on this machine, if that is not in the flags.

    Raises:
        ConfigError: The same place is being filled with something else, or by another command.
    """
    if (exit_code := _attach(work, flags)) is not None:
        return exit_code
    todo = work.todo()
    unused = without_slurm(slurm) if request is None else []
    for line in (*work.about, *unused, *todo.damaged):
        say(line)
    tasks = work.tasks_of(todo.parts)
    array = None
    if request is not None:
        array = TaskArray(work, slurm, request, flags.array_parallelism)
    if flags.dry_run:
        say(f"Would make {len(todo.parts)} of {work.num_parts} {work.plan.part}s of {work.where}:")
        for line in (*work.shares_of(todo.parts), *(array.preview(tasks) if array else [])):
            say_whole(line)
        return 0
    if not todo.parts and todo.is_complete:
        say(f"{work.what} {work.where} are complete: nothing to do.")
        return 0
    with alone(work) as lock:
        if work.old is not None and not work.plan.makes_same_parts(work.old):
            work.discard()
        work.provide()
        work.plan.save(work.job.store)
        if array is None:
            return _make_here(work, tasks, todo.parts, flags, parallelism_here, lock)
        job = array.submit(tasks)
    return follow_array(work, job) if flags.follow else 0


def _make_here(
    work: Work,
    tasks: Sequence[int],
    todo: Sequence[int],
    flags: ArrayFlags,
    parallelism: int,
    lock: RunLock,
) -> int:
    if flags.cluster == "debug":
        return run_in_process(work, tasks)
    if work.at_hand is not None:
        return write_at_hand(work, todo)
    at_a_time = flags.array_parallelism or max(parallelism, len(work.gpus))
    return run_here(work, tasks, at_a_time, lock)


def _attach(work: Work, flags: ArrayFlags) -> int | None:
    """Attach to tasks that are queued or run; None where there are none, or none that ever start."""
    adopt_lost(work.parent, work.parent / "slurm.json", flags.dry_run)
    job = running_array(work.job.store)
    if job is None or job.never_starts():
        return None
    if not work.plan.makes_same_parts(work.old):
        raise ConfigError(
            f"{work.what} {work.where} are being made from something else by job {job.job_id}. "
            f"Wait for it, or end it: {job.cancel_command}"
        )
    if job.state() == UNKNOWN:
        raise ConfigError(
            f"{work.what} {work.where} may be in the making still (job {job.job_id}): Slurm does not "
            "answer. Try again."
        )
    if job.is_ending() and not flags.follow:
        raise ConfigError(
            f"{work.what} {work.where}: job {job.job_id} is ending. Give the same command again in "
            "a moment."
        )
    refuse_changes(work, job)
    say(f"{work.what} {work.where} are being made already: job {job.job_id}, {job.state()}.")
    return follow_array(work, job) if flags.follow and not flags.dry_run else 0


def follow_array(work: Work, job: SlurmJob) -> int:
    """Show how many parts are there until the jobs have ended; return the exit code."""
    try:
        with progress_bar(work.what) as bar:
            shown = bar.add_task("", total=work.num_parts)
            while job.is_running() and not job.never_starts():
                bar.update(shown, completed=work.num_done)
                time.sleep(POLL_SECONDS)
            bar.update(shown, completed=work.num_done)
    except KeyboardInterrupt:
        say(f"Stopped watching; the jobs go on. End them: {job.cancel_command}")
        return 0
    failed = sorted(path.parent for path in job.folder.glob("task-*/failed.json"))
    if failed:
        return say_failures(failed, len(list(job.folder.glob("task-*"))))
    if not work.is_complete():
        why = f"has ended ({job.summary() or 'Slurm has forgotten it'}) before all was made"
        why = NEVER_STARTS_HELP if job.never_starts() else f"{why}. {AGAIN}"
        note(f"error: job {job.job_id} {why.rstrip('.')}. Logs: {job.folder}")
        return EXIT_FAILED
    say(work.ready())
    return 0
