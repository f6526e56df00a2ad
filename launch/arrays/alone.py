"""
One command at a time fills a place with parts: those of two sources in one folder would be neither's.

    with alone(work) as lock:
        work.plan.save(work.job.store)
        ...                             # tasks on this machine inherit the lock, Slurm's leave a note

Who looked before another began has an old picture: what it saw is compared once nobody else can write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from instruct_core.data.plan import Plan
from instruct_core.errors import ConfigError
from launch.arrays.work import Work
from launch.cluster.lock import RunLock
from launch.cluster.slurm import running_array
from launch.console.lines import say


@contextmanager
def alone(work: Work) -> Iterator[RunLock]:
    """
    Keep other commands from filling the same place, and yield the lock; replaces what never starts.

    Raises:
        ConfigError: Another command is at it, or was since this one looked.
    """
    state = f"{work.what} {work.where} are being made by another command"
    lock = RunLock(work.lock)
    try:
        if not lock.acquire():
            gone = f"; if it has ended, remove {work.lock}: this disk has no locks"
            raise ConfigError(
                f"{state}. Wait for it, or give another --out"
                f"{'' if RunLock.works(work.lock) else gone}."
            )
        if (job := running_array(work.job.store)) is not None:
            if not job.never_starts():
                raise ConfigError(
                    f"{state}, job {job.job_id}. Wait for it, or end it: {job.cancel_command}"
                )
            job.cancel()
            say(f"Job {job.job_id} is cancelled, and replaced: what it waited for has failed.")
        if not _is_as_seen(work.old, work.job.plan_if_there()):
            raise ConfigError(
                f"{work.what} {work.where} were begun by another command meanwhile. Give the same "
                "command again, or another --out."
            )
        yield lock
    finally:
        lock.close()


def _is_as_seen(seen: Plan | None, there: Plan | None) -> bool:
    return there is None if seen is None else seen.makes_same_parts(there)
