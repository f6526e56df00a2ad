"""
One task of an array: every num_tasks-th part of a plan.

    @dataclass(frozen=True)
    class PreprocessJob(ArrayJob[ShardPlan]):
        encoder: EncoderName = "auto"
        ...                                        # the methods that are missing here

A part that is there and verifies is skipped, so a killed task redoes only the part it was at.
Whichever task sees that all are there completes the work; should two see it, both write the same
bytes.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import submitit

from instruct_core.data.plan import Plan
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.storage.patience import patiently
from instruct_core.storage.store import Store
from jobs.failures import failure_report
from jobs.job_folder import (
    Progress,
    job_folder,
    or_unknown,
    read_progress,
    store_may_be_away,
    write_progress,
)
from jobs.process import peak_bytes
from jobs.survival.requeue import allows_fruitless_start, too_many_warnings

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=Plan)
# With a disk that does not take it: a task of which there is no word counts as not begun.
LAST_WORD_SECONDS = 60.0


@dataclass(frozen=True)
class ArrayJob(ABC, Generic[P]):
    """What one task runs; its whole state, so that it can be pickled."""

    out: str
    num_tasks: int
    first_task: int = 0  # the task that a job of its own does, or that an array begins with

    @property
    @abstractmethod
    def store(self) -> Store:
        """Where the plan and its parts lie."""

    @abstractmethod
    def plan(self) -> P:
        """Return the plan that lies beside the parts."""

    def plan_if_there(self) -> P | None:
        """Return the plan that lies beside the parts; None where there is none that can be read."""
        try:
            return self.plan()
        except (FileNotFoundError, CorruptFileError):
            return None

    @abstractmethod
    def missing(self, plan: P) -> list[int]:
        """Return the parts that are not there, by name: cheap enough for every task to ask."""

    @abstractmethod
    def is_made(self, plan: P, part: int) -> bool:
        """Return True if a part is there, is of this plan and verifies."""

    @abstractmethod
    def writer(self, plan: P) -> Callable[[int], None]:
        """Return what writes a part; asked for once, where there is any to write."""

    @abstractmethod
    def is_complete(self, plan: P) -> bool:
        """Return True if `complete` has said so, of this plan."""

    @abstractmethod
    def complete(self, plan: P) -> None:
        """Write what says that all parts are there."""

    def __call__(self) -> int:
        """Write this task's parts; return how many were missing."""
        task = self.first_task + int(submitit.JobEnvironment().array_task_id or 0)
        with failure_report(job_folder(), task), store_may_be_away():
            return self._run(task)

    def _run(self, task: int) -> int:
        plan = self.plan()
        mine = range(task, plan.num_parts, self.num_tasks)
        todo = [part for part in mine if not self.is_made(plan, part)]
        if todo:
            write = self.writer(plan)
            for num_written, part in enumerate(todo):
                _report(len(mine) - len(todo) + num_written)
                write(part)
        if not self.missing(plan):
            self.complete(plan)
        _report(len(mine), LAST_WORD_SECONDS)
        return len(todo)

    def checkpoint(self, *args: Any, **kwargs: Any) -> submitit.helpers.DelayedSubmission:
        """
        Return what runs after a requeue: the same task, which skips what is there.

        Raises:
            ConfigError: It was warned too often before it had finished another part.
        """
        done = or_unknown(lambda: read_progress(job_folder()), Progress()).committed or 0
        if not allows_fruitless_start(job_folder(), done):
            raise ConfigError(too_many_warnings("part"))
        return submitit.helpers.DelayedSubmission(self, *args, **kwargs)


def _report(num_done: int, patience_seconds: float = 0.0) -> None:
    progress = Progress(committed=num_done, peak_bytes=peak_bytes(os.getpid()))
    try:
        patiently(lambda: write_progress(job_folder(), progress), patience_seconds, lambda _: True)
    except OSError as error:  # a full disk must not end the task: its parts may lie elsewhere
        logger.warning("The progress could not be written: %s", error)
