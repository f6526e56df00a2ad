"""
How runs, shard sets and answers stand: what Slurm says where there is one, and what is on disk.

    status = RunStatus.of("my-run", "checkpoints_instruct")
    status.state(), status.step()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from instruct_core.config import TrainConfig
from instruct_core.data.plan import Plan
from instruct_core.data.prompt_plan import PromptPlan
from instruct_core.data.shards import missing_shards
from instruct_core.errors import CorruptFileError, InstructError, MissingError, SlurmError
from instruct_core.model.answer_parts import missing_parts
from instruct_core.storage.documents import load_document
from instruct_core.storage.steps import committed_steps
from instruct_core.storage.store import Store
from jobs.ledger import read_ledger
from jobs.reports import read_outcome, read_progress
from jobs.slurm import JobRecord
from launch.cluster.job_folder import job_folders
from launch.cluster.local import find_running
from launch.cluster.lock import RunLock
from launch.cluster.slurm import SlurmJob, array_job
from launch.console.display import WIDE, age
from launch.console.lines import say
from launch.flags.parse import check_name
from launch.places import absolute
from launch.stored_runs import job_parent, lock_path, note_path, stored_config

if TYPE_CHECKING:
    from launch.flags.status import Status


def show_status(flags: Status) -> int:
    """Print what the launcher was asked for; return the exit code."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    if flags.run is not None:
        _show_run(console, RunStatus.of(flags.run, flags.checkpoints))
        return 0
    found = Store(absolute(flags.checkpoints))
    names = [name for name in found.names() if (found / name).exists("run.json")]
    table = Table("run", "state", "job", "step", "attempt", "last save", "note", box=None)
    for name in names:
        try:
            status = RunStatus.of(name, flags.checkpoints)
        except InstructError as error:
            table.add_row(name, "unreadable", "", "", "", "", str(error))
            continue
        table.add_row(
            name, status.state(), status.job_id(), status.step(), status.attempt(),
            status.last_save(), status.note(),
        )  # fmt: skip
    if names:
        console.print(table)
    else:
        say(f"No runs in {flags.checkpoints}. Begin one: python launch/finetune.py")
    _show_arrays(console, "shards", Path(flags.shards).glob("*/job/slurm.json"), _shards_of)
    _show_arrays(console, "answers", Path().glob("*.parts/job/slurm.json"), _answers_of)
    return 0


@dataclass
class RunStatus:
    """One run, as it stands now."""

    config: TrainConfig
    lock: Path
    slurm: SlurmJob | None
    events: list[dict[str, Any]]

    @classmethod
    def of(cls, name: str, checkpoints: str) -> RunStatus:
        """
        Return how a run stands.

        Raises:
            MissingError: There is no run of that name.
            CorruptFileError: What it has left cannot be read.
        """
        check_name(name)
        store = Store(absolute(checkpoints)) / name
        config = stored_config(store)
        if config is None:
            raise MissingError(
                f"Run {name} is not there: no {store.where('run.json')}. All runs: "
                "python launch/status.py"
            )
        lock = lock_path(store, job_parent(config.runs, name))
        slurm = SlurmJob.found(note_path(lock))
        return cls(config, lock, slurm, read_ledger(Store(config.runs) / name))

    def job_folders(self) -> list[Path]:
        """Return the folders of its jobs, oldest first."""
        return job_folders(job_parent(self.config.runs, self.config.run))

    def is_active(self) -> bool:
        """Return True as long as a job of it waits or runs."""
        return RunLock.is_held(self.lock) or (self.slurm is not None and self.slurm.is_running())

    def progress(self) -> dict[str, Any]:
        """Return the newest job's progress."""
        folders = self.job_folders()
        return read_progress(folders[-1]) if folders else {}

    def outcome(self) -> dict[str, Any] | None:
        """Return why the newest job failed, if it did."""
        folders = self.job_folders()
        return read_outcome(folders[-1]) if folders else None

    def records(self) -> list[JobRecord]:
        """Return what Slurm knows about its newest job; [] where nobody can tell."""
        try:
            return self.slurm.records() if self.slurm is not None else []
        except SlurmError:
            return []

    def state(self) -> str:
        """Return its state in a word or two: Slurm's own while it has one."""
        if RunLock.is_held(self.lock):
            return "training here"
        if self.slurm is not None and self.slurm.is_running():
            return self.slurm.state()
        said = self.progress().get("state")
        if said in ("finished", "stopped"):
            return str(said)
        if self.outcome() is not None:
            return "failed"
        ended = self.slurm.state() if self.slurm is not None else ""
        if ended:
            return ended
        return "not started" if said is None else "ended without a word"

    def job_id(self) -> str:
        """Return the id of its newest job: Slurm's, or a process id."""
        if RunLock.is_held(self.lock) and (found := find_running(self.lock)):
            return str(found[0].pid)
        return self.slurm.job_id if self.slurm is not None else ""

    def step(self) -> str:
        """Return how far it is."""
        steps = committed_steps(Store(self.config.checkpoints) / self.config.run)
        reached = max([self.progress().get("global_step", 0), *steps])
        return f"{reached} of {self.config.max_steps}"

    def attempt(self) -> str:
        """Return the number of its newest attempt."""
        return str(self.events[-1]["attempt"]) if self.events else ""

    def last_save(self) -> str:
        """Return the step and the age of its newest save."""
        saves = [event for event in self.events if event["event"] == "saved"]
        if not saves:
            return ""
        return f"step {saves[-1]['step']}, {age(time.time() - saves[-1]['utc_seconds'])} ago"

    def note(self) -> str:
        """Return what a person should know: why it waits, until when, why it failed."""
        notes = []
        for record in self.records():
            if record.state == "PENDING":
                if record.start != "Unknown":
                    notes.append(f"expected start {record.start}")
                if record.reason == "DependencyNeverSatisfied":
                    notes.append(f"what it waits for has failed: scancel {record.job_id}, mend it")
                if record.reason == "Dependency":
                    notes.append("waits for another job")
                if record.reason == "BeginTime":
                    notes.append("comes back after a requeue")
        attempt = self.events[-1]["attempt"] if self.events else 0
        for event in self.events:
            if event["event"] == "short_lead" and event["attempt"] == attempt:
                notes.append(
                    f"Slurm's warning comes {event['lead_seconds']:.0f} s before the end, and "
                    f"{event['needed_seconds']:.0f} s are needed"
                )
        saves = [event for event in self.events if event["event"] in ("saved", "save_failed")]
        if saves and saves[-1]["event"] == "save_failed":
            notes.append(f"the last save failed: {saves[-1]['error']}")
        outcome = self.outcome()
        if outcome is not None and not self.is_active():
            notes.append(outcome["error"])
        return "; ".join(notes)


def _show_run(console: Console, status: RunStatus) -> None:
    config = status.config
    say(f"Run {config.run}: {status.state()}, step {status.step()}")
    if note := status.note():
        say(f"Note: {note}")
    say(f"Last save: {status.last_save() or 'none yet'}")
    if job_ids := [i for folder in status.job_folders() for i in SlurmJob(folder).job_ids]:
        say(f"Slurm jobs: {', '.join(job_ids)}")
    if nodes := [record.nodes for record in status.records() if record.nodes]:
        say(f"Nodes: {nodes[-1]}")
    for folder in status.job_folders()[-1:]:
        say(f"Job folder: {folder}")
    say(f"Checkpoints: {config.checkpoints}/{config.run}")
    table = Table("attempt", "started", "job", "from step", "to step", "end", box=None)
    for attempt in sorted({event["attempt"] for event in status.events}):
        mine = [event for event in status.events if event["attempt"] == attempt]
        by_name = {event["event"]: event for event in mine}
        started, last = mine[0], mine[-1]
        resumed = by_name.get("resumed", {}).get("step")
        steps = [event["step"] for event in mine if "step" in event]
        table.add_row(
            str(attempt),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started["utc_seconds"])),
            str(started.get("job_id", "")),
            "" if resumed is None else str(resumed),
            str(steps[-1]) if steps else "",
            _end_of(last),
        )
    if status.events:
        console.print(table)
    say(f"Its log: python launch/logs.py {config.run} -f")


def _end_of(last: dict[str, Any]) -> str:
    name = str(last["event"])
    if name in ("crashed", "failed"):
        return f"{name}: {last['error']}"
    return name if name in ("requeued", "stopped", "finished") else ""


class _Parts(NamedTuple):
    """How much of an array's work is there."""

    num_there: int
    num_all: int
    is_complete: bool


def _shards_of(store: Store) -> _Parts:
    plan = Plan.from_document(load_document(store, "plan.json"))
    num_there = plan.num_shards - len(missing_shards(store, plan))
    return _Parts(num_there, plan.num_shards, store.exists("manifest.json"))


def _answers_of(store: Store) -> _Parts:
    plan = PromptPlan.from_document(load_document(store, "plan.json"))
    num_there = plan.num_parts - len(missing_parts(store, plan))
    return _Parts(num_there, plan.num_parts, store.exists("manifest.json"))


def _show_arrays(
    console: Console, what: str, notes: Iterable[Path], parts_of: Callable[[Store], _Parts]
) -> None:
    """Show what array jobs make, or have made of late."""
    table = Table(what, "state", "job", "there", "note", box=None)
    for note in sorted(notes):
        store = Store(str(note.parent.parent.resolve()))
        job = array_job(store)
        if job is None:
            continue
        try:
            parts = parts_of(store)
        except (FileNotFoundError, CorruptFileError, KeyError, TypeError):
            continue
        failed = [read_outcome(path.parent) for path in job.folder.glob("task-*/failed.json")]
        table.add_row(
            store.url.rsplit("/", 1)[-1].removesuffix(".parts"),
            job.summary() or ("complete" if parts.is_complete else "ended"),
            ", ".join(job.job_ids),
            f"{parts.num_there} of {parts.num_all}",
            f"{len(failed)} tasks failed: {failed[0]['error']}" if failed and failed[0] else "",
        )
    if table.rows:
        console.print(table)
