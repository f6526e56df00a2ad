"""
One run for a person: how it stands, its attempts, and where its hours went.

    show_run(RunStatus.of(Run.find("my-run", "checkpoints_instruct")))
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from instruct_core.recipe import flag_of
from jobs.receipt import CAUSES, Receipt
from launch.cluster.slurm import SlurmJob
from launch.console.display import age, clock, show_table, stretch_bar, zone
from launch.console.lines import counted, say
from launch.runs.commands import filled, run_command
from launch.runs.pace import left_of, unsaved_of
from launch.runs.status import RunStatus


def show_run(status: RunStatus) -> None:
    """Print all about a run."""
    run = status.run
    say(f"Run {run.name}: {status.state()}, step {status.step()}")
    if note := status.note():
        say(f"Note: {note}")
    say(f"Last save: {status.last_save() or 'none yet'}")
    if (unsaved := unsaved_of(status)) is not None:
        lost = f"{counted(unsaved.steps, 'step')}, {age(unsaved.seconds)}"
        say(f"Not saved yet: {lost}, which a kill without a warning would cost")
    if (left := left_of(status)) is not None:
        starts = f", {counted(left.starts, 'start')} of its job" if left.starts else ""
        say(f"To the end: {age(left.seconds)} at the pace of the newest step{starts}")
    if job_ids := [i for folder in status.job_folders() for i in SlurmJob(folder).job_ids]:
        say(f"Slurm jobs: {', '.join(job_ids)}")
    if nodes := [record.nodes for record in status.records() if record.nodes]:
        say(f"Nodes: {nodes[-1]}")
    for folder in status.job_folders()[-1:]:
        say(f"Job folder: {folder}")
    say(f"Checkpoints: {run.store.url}")
    if own := own_ways(run.asked["slurm"]):
        say(f"Asked of Slurm: {own}")
    if status.entries:
        _show_attempts(status)
    show_receipt(status.receipt())
    say(f"Its log: {run_command(run.store, 'logs', '-f')}")


def own_ways(asked: Mapping[str, Any]) -> str:
    """Return what a run asks of Slurm beyond the usual, as it is typed; "" for nothing."""
    typed = []
    for name in ("gpu_type", "clusters", "sbatch", "setup", "container", "container_python"):
        value = asked.get(name) or []
        typed += [
            f"{flag_of(name)}={one}" for one in ([value] if isinstance(value, str) else value)
        ]
    return shlex.join(typed)


def _show_attempts(status: RunStatus) -> None:
    titles = (
        "attempt",
        f"started ({zone()})",
        "job",
        "from step",
        "to step",
        "lost",
        "when",
        "end",
    )
    table, attempts = Table(*titles, box=None), status.attempts()
    begun = attempts[0].started_at
    span = max(a.ended_at or time.time() for a in attempts) - begun
    for attempt in attempts:
        ended_at = attempt.ended_at or time.time()
        table.add_row(
            str(attempt.attempt),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started_at)),
            attempt.job_id,
            "" if attempt.from_step is None else str(attempt.from_step),
            "" if attempt.to_step is None else str(attempt.to_step),
            "" if attempt.steps_lost is None else counted(attempt.steps_lost, "step"),
            stretch_bar((attempt.started_at - begun) / span, (ended_at - begun) / span)
            if span > 0
            else "",
            attempt.end,
        )
    show_table(table)
    *_, last = status.attempts()
    if last.cause not in ("", "finished"):
        remedy = filled(last.remedy, status.run.store)
        say(f"Cause of the last end: {last.cause}. What to do: {remedy}")


def show_receipt(receipt: Receipt) -> None:
    """Print where a run's seconds went; nothing of one that has none."""
    if not receipt.wall_seconds:
        return
    table = Table("time", "share", "went to", box=None)
    for cause, seconds in receipt.seconds.items():
        share = f"{seconds / receipt.wall_seconds:.1%}"
        table.add_row(clock(seconds), share, CAUSES.get(cause, cause))
    table.add_row(clock(receipt.wall_seconds), "", f"in all; goodput {receipt.goodput:.2f}")
    show_table(table)
