"""
Arrays at a glance: what makes shards, and answers, or has made them of late.

    show_arrays(shard_sets, parts_of_answers, controller)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rich.table import Table

from instruct_core.answers.parts import missing_parts
from instruct_core.answers.plan import AnswerPlan
from instruct_core.data.mixed_plan import load_shard_plan
from instruct_core.data.plan import Plan
from instruct_core.data.shards import missing_shards
from instruct_core.errors import CorruptFileError
from instruct_core.storage.store import Store
from jobs.failures import newest_failure, read_outcome
from launch.cluster.slurm import NEVER_STARTS_HELP, Controller, SlurmJob, array_job
from launch.console.display import show_table
from launch.console.lines import counted

P = TypeVar("P", bound=Plan)


def show_arrays(shards: Sequence[Store], answers: Sequence[Store], controller: Controller) -> None:
    """
    Show the arrays that make shards and answers.

    Args:
        shards: Sets that jobs make.
        answers: What those that answer fill with parts.
        controller: Whom to ask.
    """
    _show_arrays("shards", shards, load_shard_plan, missing_shards, controller)
    _show_arrays("answers", answers, AnswerPlan.load, missing_parts, controller)


def _show_arrays(
    what: str,
    stores: Iterable[Store],
    load: Callable[[Store], P],
    missing_in: Callable[[Store, P], list[int]],
    controller: Controller,
) -> None:
    """Show what array jobs make, or have made of late."""
    table = Table(what, "state", "job", "made", "note", box=None)
    for store in stores:
        job = array_job(store, controller)
        if job is None:
            continue
        try:
            plan = load(store)
        except (FileNotFoundError, CorruptFileError):
            continue
        table.add_row(
            store.url.rsplit("/", 1)[-1].removesuffix(".parts"),
            state_of(job, is_made=store.exists("manifest.json")),
            ", ".join(job.job_ids),
            f"{plan.num_parts - len(missing_in(store, plan))} of {plan.num_parts}",
            _note_on(job),
        )
    if table.rows:
        show_table(table)


def state_of(job: SlurmJob, is_made: bool) -> str:
    """Return how array jobs stand: what Slurm says of those that go on, or whether all is made."""
    if job.is_running():
        return job.summary()
    return "complete" if is_made else "ended"


def _note_on(job: SlurmJob) -> str:
    """Return what a person should know of array jobs: which tasks failed, for good or so far."""
    if job.never_starts():
        return NEVER_STARTS_HELP
    tasks = sorted(job.folder.glob("task-*"))
    if ended := [outcome.error for task in tasks if (outcome := read_outcome(task))]:
        return f"{counted(len(ended), 'task')} failed: {ended[0]}"
    if failing := [failure.error for task in tasks if (failure := newest_failure(task))]:
        return f"{counted(len(failing), 'task')} failed, and start again: {failing[0]}"
    return ""
