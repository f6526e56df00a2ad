"""
The parts of a work made on this machine: by tasks, a few at a time, or by this process and its forks.

    exit_code = run_here(work, tasks=[0, 1], parallelism=2, lock=lock)
    exit_code = write_at_hand(work, parts=[0, 1, 2])

Ctrl-C and TERM end what was started, and what is whole by then stays.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from instruct_core.errors import ConfigError
from jobs.failures import read_outcome
from launch.arrays.work import Work, shown_count
from launch.cluster.frozen_code import freeze_code
from launch.cluster.in_process import only_task_of
from launch.cluster.job_folder import new_job_folder
from launch.cluster.local import LocalJob, submit_local
from launch.cluster.lock import RunLock
from launch.console.display import progress_bar
from launch.console.lines import (
    EXIT_FAILED,
    counted,
    ctrl_c_waits,
    note,
    say,
    term_as_interrupt,
)

LOCAL_POLL_SECONDS = 0.05
AGAIN = "Give the same command again to make what is missing."


def write_at_hand(work: Work, parts: Sequence[int]) -> int:
    """Write parts without a task, and what completes them; return the exit code."""
    assert work.at_hand is not None
    try:
        with term_as_interrupt(), shown_count(work.what, work.num_parts) as show:
            for number, _ in enumerate(work.at_hand(parts), start=work.num_parts - len(parts) + 1):
                show(number)
            work.job.complete(work.plan)
    except KeyboardInterrupt:
        say(f"Stopped. {AGAIN}")
        raise
    return _say_ready(work)


def run_in_process(work: Work, tasks: Sequence[int]) -> int:
    """Run the tasks one after the other, where a debugger can step through them."""
    folder = new_job_folder(work.parent)
    for number in tasks:
        with only_task_of(folder / f"task-{number:05d}"):
            work.task(number)()
    return _say_ready(work)


def run_here(work: Work, tasks: Sequence[int], parallelism: int, lock: RunLock) -> int:
    """
    Run the tasks on this machine, a few at a time; return the exit code.

    Args:
        work: What they make.
        tasks: Which.
        parallelism: At a time.
        lock: Held by each task too, which may live on when the launcher is killed.
    """
    folder = new_job_folder(work.parent)
    freeze_code(folder)
    say(f"Job: {work.counted(tasks)}, logs in {folder}")
    with term_as_interrupt():
        failed = _run_all(work, tasks, parallelism, folder, lock)
    if failed:
        return say_failures([job.folder for job in failed], len(tasks))
    return _say_ready(work)


def _run_all(
    work: Work, tasks: Sequence[int], parallelism: int, folder: Path, lock: RunLock
) -> list[LocalJob]:
    """Run the tasks; return those that failed."""
    waiting, failed = list(tasks), list[LocalJob]()
    running: list[tuple[LocalJob, str | None]] = []  # with the GPU of each
    with progress_bar(work.what) as bar:
        shown = bar.add_task("", total=work.num_parts)
        try:
            while waiting or running:
                while waiting and len(running) < parallelism:
                    number, *waiting = waiting
                    place = folder / f"task-{number:05d}"
                    gpu = min(work.gpus, key=[gpu for _, gpu in running].count, default=None)
                    with ctrl_c_waits():  # or nobody would know of what is started just now
                        job = submit_local(work.task(number), place, 1, lock, code=folder, gpu=gpu)
                        running.append((job, gpu))
                    lock.name_task(job.pid)
                time.sleep(LOCAL_POLL_SECONDS)
                ended = [job for job, _ in running if not job.is_running()]
                failed += [job for job in ended if job.exit_code() != 0]
                running = [(job, gpu) for job, gpu in running if job not in ended]
                bar.update(shown, completed=work.num_done)
        except BaseException:
            for job, _ in running:
                job.warn(signal.SIGKILL)  # takes its task along; a part is whole or not there
            say(f"Stopped. {AGAIN}")
            raise
    return failed


def _say_ready(work: Work) -> int:
    # Locks of a disk reach no other site: in a bucket somebody else may have been at it.
    if not work.is_complete():
        raise ConfigError(
            f"{work.what} {work.where} are not complete: another command has written there, or a file is "
            f"damaged. {AGAIN}"
        )
    say(work.ready())
    return 0


def say_failures(folders: Sequence[Path], num_tasks: int) -> int:
    """Say why tasks failed, on one line; return the exit code."""
    outcomes = [outcome for folder in folders if (outcome := read_outcome(folder))]
    reason = outcomes[0].error if outcomes else "they were killed, or cancelled"
    # What a person has to fix first is not made by the same command.
    again = f" {AGAIN}" if all(outcome.retry for outcome in outcomes) else ""
    note(
        f"error: {len(folders)} of {counted(num_tasks, 'task')} failed: {reason.rstrip('.')}.{again}"
    )
    return EXIT_FAILED
