"""
All runs and arrays at a glance, or one run with all its attempts: what launch/status.py prints.

    exit_code = show_status(Status())
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.table import Table

from instruct_core.answers.parts import missing_parts
from instruct_core.answers.plan import AnswerPlan
from instruct_core.data.plan import Plan
from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.shards import missing_shards
from instruct_core.errors import CorruptFileError, InstructError
from instruct_core.events import Event
from instruct_core.storage.store import Store
from jobs.events import Crashed, Failed, Finished, Requeued, Resumed, Started, Stopped
from jobs.job_folder import newest_failure, read_outcome
from launch.cluster.slurm import NEVER_STARTS_HELP, Controller, SlurmJob, array_job
from launch.console.display import show_table
from launch.console.lines import counted, say
from launch.runs.run import Run, runs_in
from launch.runs.status import RunStatus

if TYPE_CHECKING:
    from launch.flags.status import Status

P = TypeVar("P", bound=Plan)
NOTE = "job/slurm.json"


def show_status(flags: Status) -> int:
    """Print what the launcher was asked for; return the exit code."""
    if flags.run is not None:
        _show_run(RunStatus.of(Run.find(flags.run, flags.checkpoints)))
        return 0
    controller = Controller()  # one for all: while Slurm is away it is asked once
    runs = runs_in(flags.checkpoints)
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
    shards, answers = Path(flags.shards).glob(f"*/{NOTE}"), Path().glob(f"*.parts/{NOTE}")
    _show_arrays("shards", shards, ShardPlan, missing_shards, controller)
    _show_arrays("answers", answers, AnswerPlan, missing_parts, controller)
    return 0


def _show_run(status: RunStatus) -> None:
    run = status.run
    say(f"Run {run.name}: {status.state()}, step {status.step()}")
    if note := status.note():
        say(f"Note: {note}")
    say(f"Last save: {status.last_save() or 'none yet'}")
    if job_ids := [i for folder in status.job_folders() for i in SlurmJob(folder).job_ids]:
        say(f"Slurm jobs: {', '.join(job_ids)}")
    if nodes := [record.nodes for record in status.records() if record.nodes]:
        say(f"Nodes: {nodes[-1]}")
    for folder in status.job_folders()[-1:]:
        say(f"Job folder: {folder}")
    say(f"Checkpoints: {run.store.url}")
    table = Table("attempt", "started", "job", "from step", "to step", "end", box=None)
    attempts = sorted({entry.attempt for entry in status.entries})
    reached = status.steps_reached()
    for attempt in attempts:
        mine = [entry for entry in status.entries if entry.attempt == attempt]
        events = [entry.event for entry in mine]
        steps = [step for event in events if isinstance(step := event.facts.get("step"), int)]
        steps += [reached[attempt]] if attempt in reached else []
        goes_on = attempt == attempts[-1] and status.is_active()
        table.add_row(
            str(attempt),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(mine[0].utc_seconds)),
            next((event.job_id for event in events if isinstance(event, Started)), ""),
            next((str(event.step) for event in events if isinstance(event, Resumed)), ""),
            str(max(steps)) if steps else "",
            _end_of(events) or ("" if goes_on else "lost without a word"),
        )
    if status.entries:
        show_table(table)
    say(f"Its log: python launch/logs.py {run.name} -f")


def _end_of(events: list[Event]) -> str:
    """Return how an attempt ended; the next one may have told of its last save since."""
    for event in reversed(events):
        if isinstance(event, Crashed | Failed):
            return f"{event.name}: {event.error}"
        if isinstance(event, Requeued | Stopped | Finished):
            return event.name
    return ""


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
