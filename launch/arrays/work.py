"""
Work that an array of tasks shares, each task its own parts; and questions about it.

    work = Work(job=PreprocessJob(...), plan=plan, old=None, what="Shards", ...)
    todo, damaged = work.todo()            # ([7, 12], ["Shard 12 in ... is damaged, ..."])

Answers come back as values, with the lines that explain them; array.py prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from instruct_core.data.plan import Plan
from jobs.array_job import ArrayJob
from launch.cluster.job_folder import array_parent
from launch.cluster.script import array_text
from launch.console.display import progress_bar
from launch.console.lines import counted

AtHand = Callable[[Sequence[int]], Iterator[None]]  # yields behind each part


class Todo(NamedTuple):
    """The parts that are missing, stale or damaged, and a line about each that is damaged."""

    parts: list[int]
    damaged: list[str]
    is_complete: bool


@dataclass(frozen=True)
class Work:
    """What the tasks of an array make together."""

    job: ArrayJob[Any]  # what a task runs
    plan: Plan
    old: Plan | None  # that lies beside the parts now
    what: str  # "Shards", for bars and messages
    where: str  # as messages name it
    name: str  # of the job
    about: list[str]  # lines: what it is made from
    discard: Callable[[], None]  # removes what was made by another plan
    provide: Callable[[], None]  # writes what the tasks need beside the plan
    ready: Callable[[], str]  # says what was made
    next_step: str  # what can be typed now that it is queued
    flags: Any  # of the command: a dataclass with `array` and `slurm`
    words: Sequence[str] = ()  # that were typed
    reads: Sequence[str] = ()  # paths and URLs beside the files of the plan
    at_hand: AtHand | None = None  # writes parts without a task
    gpus: Sequence[str] = ()  # of this machine, for its tasks; see `gpu_names`

    @property
    def parent(self) -> Path:
        """Where its jobs have their folders."""
        return array_parent(self.job.store)

    @property
    def lock(self) -> Path:
        """What the one command holds that fills the place; hidden, so that it is in nobody's way."""
        return self.parent.with_name(f".{self.parent.name}.lock")

    @property
    def places(self) -> list[str]:
        """Paths and URLs that its tasks read and write."""
        sources = {file.url.rpartition("/")[0] for file in self.plan.files}
        return [self.job.store.url, *sorted(sources), *self.reads]

    @property
    def num_parts(self) -> int:
        """All parts."""
        return self.plan.num_parts

    @property
    def num_done(self) -> int:
        """Parts that are there."""
        return self.num_parts - len(self.job.missing(self.plan))

    def is_complete(self) -> bool:
        """Return True if all is there, of this plan, and said to be."""
        return self.job.is_complete(self.plan)

    def task(self, first: int) -> ArrayJob[Any]:
        """Return what a task runs, or an array that begins with it."""
        return replace(self.job, first_task=first)

    def todo(self) -> Todo:
        """Return what is to be made; every part that is there is read and verified."""
        missing, is_complete = set(self.job.missing(self.plan)), self.is_complete()
        unfit = [
            part
            for part in range(self.num_parts)
            if part not in missing and not self.job.is_made(self.plan, part)
        ]
        lines = [
            f"{self.plan.part.capitalize()} {part} in {self.where} is damaged, and is made again."
            for part in unfit
        ]
        return Todo(sorted({*missing, *unfit}), lines if is_complete else [], is_complete)

    def tasks_of(self, todo: Sequence[int]) -> list[int]:
        """Return the tasks that have parts to make; one where only the end is missing."""
        return sorted({part % self.job.num_tasks for part in todo}) or [0]

    def counted(self, tasks: Sequence[int]) -> str:
        """Return how many tasks there are, and why not as many as were asked for."""
        idle = self.job.num_tasks - len(tasks)
        why = f" ({self.job.num_tasks} asked for: {idle} would find no {self.plan.part} to make)"
        return counted(len(tasks), "task") + (why if idle else "")

    def shares_of(self, todo: Sequence[int]) -> list[str]:
        """Return a line for each task that has parts to make: which."""
        shares = {
            task: [part for part in todo if part % self.job.num_tasks == task]
            for task in range(min(self.job.num_tasks, self.num_parts))  # of more, none has a part
        }
        return [
            f"  task {task}: {self.plan.part}s {array_text(parts).replace(',', ', ')}"
            for task, parts in shares.items()
            if parts
        ]


@contextmanager
def shown_scan() -> Iterator[Callable[[int], None]]:
    """Show on a bar how many rows of a source have been read: call what comes with their number."""
    with shown_count("Checking rows", total=None) as show:
        yield show


@contextmanager
def shown_count(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a count on a bar: call what comes with it; at the first call, once forks have begun."""
    bar = progress_bar(what)
    task = bar.add_task("", total=total)

    def show(count: int) -> None:
        bar.start()
        bar.update(task, completed=count)

    try:
        yield show
    finally:
        bar.stop()


def here_because(why: str) -> list[str]:
    """Return the line that says why tasks run on this machine, where nobody typed that."""
    return [f"Where: this machine ({why})"] if why else []
