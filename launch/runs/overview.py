"""
All runs and arrays at a glance, or one run: what launch/status.py prints, in words or as JSON.

    exit_code = show_status(Status())
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.table import Table

from instruct_core.answers.parts import missing_parts
from instruct_core.answers.plan import AnswerPlan
from instruct_core.data.plan import Plan
from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.shards import missing_shards
from instruct_core.errors import CorruptFileError, InstructError
from instruct_core.storage.store import Store
from jobs.job_folder import newest_failure, read_outcome
from launch.cluster.slurm import NEVER_STARTS_HELP, Controller, SlurmJob, array_job
from launch.console.display import show_table
from launch.console.lines import counted, say
from launch.runs.document import document_of_all, document_of_run
from launch.runs.one_run import show_run
from launch.runs.run import Run, runs_in
from launch.runs.status import RunStatus

if TYPE_CHECKING:
    from launch.flags.status import Status

P = TypeVar("P", bound=Plan)
NOTE = "job/slurm.json"


def show_status(flags: Status) -> int:
    """Print what the launcher was asked for; return the exit code."""
    controller = Controller()  # one for all: while Slurm is away it is asked once
    if flags.run is not None:
        status = RunStatus.of(Run.find(flags.run, flags.checkpoints, flags.runs), controller)
        if flags.json:
            say(json.dumps(document_of_run(status)))
        else:
            show_run(status)
        return 0
    runs = runs_in(flags.checkpoints)
    if flags.json:
        say(json.dumps(document_of_all(runs, controller)))
        return 0
    _show_runs(flags, runs, controller)
    shards, answers = Path(flags.shards).glob(f"*/{NOTE}"), Path().glob(f"*.parts/{NOTE}")
    _show_arrays("shards", shards, ShardPlan, missing_shards, controller)
    _show_arrays("answers", answers, AnswerPlan, missing_parts, controller)
    return 0


def _show_runs(flags: Status, runs: Sequence[Run], controller: Controller) -> None:
    table = Table("run", "state", "job", "step", "attempt", "last save", "note", box=None)
    for run in runs:
        try:
            status = RunStatus.of(run, controller)
        except InstructError as error:
            table.add_row(run.name, "unreadable", "", "", "", "", str(error))
            continue
        table.add_row(
            run.name, status.state(), status.job_id(), status.step(), status.attempt(),
            status.last_save(), status.note(),
        )  # fmt: skip
    if runs:
        show_table(table)
    else:
        say(f"No runs in {flags.checkpoints}. Begin one: python launch/finetune.py")


def _show_arrays(
    what: str,
    notes: Iterable[Path],
    kind: type[P],
    missing_in: Callable[[Store, P], list[int]],
    controller: Controller,
) -> None:
    """Show what array jobs make, or have made of late."""
    table = Table(what, "state", "job", "made", "note", box=None)
    for note in sorted(notes):
        store = Store(str(note.parent.parent.resolve()))
        job = array_job(store, controller)
        if job is None:
            continue
        try:
            plan = kind.load(store)
        except (FileNotFoundError, CorruptFileError):
            continue
        table.add_row(
            store.url.rsplit("/", 1)[-1].removesuffix(".parts"),
            job.summary() or ("complete" if store.exists("manifest.json") else "ended"),
            ", ".join(job.job_ids),
            f"{plan.num_parts - len(missing_in(store, plan))} of {plan.num_parts}",
            _note_on(job),
        )
    if table.rows:
        show_table(table)


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
