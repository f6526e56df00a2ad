"""
How a run stands: what Slurm says where there is one, and what is on disk.

    status = RunStatus.of(Run.find("my-run", "checkpoints_instruct"))
    status.state(), status.step()
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from instruct_core.checkpoints.steps import newest_committed_step
from instruct_core.errors import SlurmError
from instruct_core.events import Event, Saved, SaveFailed, SlowRank
from jobs.control import Request, asker, requests_in, standing
from jobs.events import Changed, ShortLead
from jobs.failures import Outcome, read_outcome
from jobs.job_folder import Progress, read_all_progress, read_progress
from jobs.ledger import Entry, read_ledger, read_newest
from jobs.receipt import Receipt, receipt_of, submissions
from jobs.slurm import JobRecord
from launch.cluster.job_folder import job_folders
from launch.cluster.local import LocalJob
from launch.cluster.lock import RunLock, holder_of
from launch.cluster.slurm import UNKNOWN, Controller, SlurmJob
from launch.console.display import age
from launch.runs.attempts import Attempt, attempts_of
from launch.runs.commands import run_command
from launch.runs.run import Run
from launch.runs.silence import silence_of
from launch.runs.waiting import expected_start, notes_on

TRAINS = ("training", "RUNNING")  # states begin with, here and on Slurm
ENDED = ("finished", "stopped", "paused")  # a job's last word


@dataclass
class RunStatus:
    """One run, as it stands now."""

    run: Run
    slurm: SlurmJob | None
    entries: list[Entry]

    @classmethod
    def of(cls, run: Run, controller: Controller | None = None) -> RunStatus:
        """
        Return how a run stands.

        Args:
            run: Which.
            controller: Whom to ask, where several runs are asked for.

        Raises:
            CorruptFileError: It has left what nobody can read.
        """
        return cls(run, SlurmJob.found(run.slurm_note, controller), read_ledger(run.ledger))

    @classmethod
    def at_a_glance(cls, run: Run, controller: Controller) -> RunStatus:
        """Return how a run stands, without its earlier attempts; as `of`."""
        return cls(run, SlurmJob.found(run.slurm_note, controller), read_newest(run.ledger))

    def job_folders(self) -> list[Path]:
        """Return the folders of its jobs, oldest first."""
        return job_folders(self.run.job_parent)

    def is_active(self) -> bool:
        """Return True as long as a job of it waits or runs."""
        return RunLock.is_held(self.run.lock) or (
            self.slurm is not None and self.slurm.is_running()
        )

    @cached_property
    def is_here(self) -> bool:
        """Whether a job on this machine holds it, as it was when that was first asked for."""
        return RunLock.is_held(self.run.lock)

    def asked(self) -> Request | None:
        """Return the stop or the pause that somebody has asked for, and that holds."""
        return self._asked

    @cached_property
    def _asked(self) -> Request | None:
        return standing(requests_in(self.run.store))

    def asked_by(self) -> str:
        """Return who asked for it; "" where nobody did."""
        asked = self.asked()
        return "" if asked is None else asker(self.run.store, asked)

    def never_starts(self) -> bool:
        """Return True if it waits for ever."""
        return self.slurm is not None and self.slurm.never_starts()

    def progress(self) -> Progress:
        """Return the newest job's progress, as it was when it was first asked for."""
        return self._progress

    @cached_property
    def _progress(self) -> Progress:
        return read_progress(self._newest_job) if self._newest_job else Progress()

    @cached_property
    def _newest_job(self) -> Path | None:
        return next(reversed(self.job_folders()), None)

    def steps_reached(self) -> dict[int, int]:
        """Return how far each attempt came that told of it, saved or not."""
        told = [each for folder in self.job_folders() for each in read_all_progress(folder)]
        return {
            each.attempt: each.global_step
            for each in told
            if each.attempt is not None and each.global_step is not None
        }

    def outcome(self) -> Outcome | None:
        """Return why the newest job failed, if it did."""
        return read_outcome(self._newest_job) if self._newest_job else None

    def records(self) -> list[JobRecord]:
        """Return what Slurm knows about its newest job; [] where nobody can tell."""
        try:
            return self.slurm.records() if self.slurm is not None else []
        except SlurmError:
            return []

    def state(self) -> str:
        """Return its state in a word or two: Slurm's own while it has one."""
        said = self.progress().state
        if self.is_here:
            holder = holder_of(self.run.lock)
            where = (holder.where if holder else "") or " here"
            # Its processes live some seconds longer than its last word.
            return f"{said}, ending{where}" if said in ENDED else f"training{where}"
        if self.slurm is not None and self.slurm.is_running():
            state = self.slurm.state()
            # A job that has said its last word needs nobody else's, and Slurm may start one that has
            # finished once more, for nothing.
            if said in ENDED and state == UNKNOWN:
                return said
            return said if said == "finished" and state.startswith("PENDING") else state
        return self._state_at_rest(said)

    def _state_at_rest(self, said: str | None) -> str:
        asked = self.asked()
        ended = "failed" if said not in ENDED and self.outcome() is not None else ""
        if asked is not None and not ended and said not in ("finished", "stopped"):
            ended = "paused" if asked.verb == "pause" else "stopped"
        if ended or said in ENDED:
            return ended or str(said)
        ended = self.slurm.state() if self.slurm is not None else ""
        if ended == "CANCELLED":
            return "stopped"  # as where its ranks had begun, and could say so
        if ended or said is not None or self._newest_committed is None:
            return ended or ("not started" if said is None else "ended without a word")
        # Its checkpoints are here, and what its jobs have left is not: a copy, or its ledger was removed.
        is_whole = self.reached_step() >= self.run.config.max_steps
        return "finished" if is_whole else "stopped"

    def job_id(self) -> str:
        """Return the id of its newest job: Slurm's, or a process id."""
        if self.is_here and (found := LocalJob.found(self.run.lock)) is not None:
            return str(found.pid)
        return self.slurm.job_id if self.slurm is not None else ""

    def reached_step(self) -> int:
        """Return how far it is."""
        return max(self.progress().global_step or 0, self._newest_committed or 0)

    @cached_property
    def _newest_committed(self) -> int | None:
        return newest_committed_step(self.run.store)

    def step(self) -> str:
        """Return how far it is, of how much."""
        return f"{self.reached_step()} of {self.run.config.max_steps}"

    def attempts(self) -> list[Attempt]:
        """Return its attempts, oldest first."""
        return attempts_of(self.entries, self.steps_reached(), self.is_active())

    def receipt(self) -> Receipt:
        """Return where its hours went, up to now if it goes on."""
        submitted_at = submissions(self.run.job_parent)
        return receipt_of(self.entries, submitted_at, time.time() if self.is_active() else None)

    def attempt(self) -> str:
        """Return the number of its newest attempt."""
        return str(self.entries[-1].attempt) if self.entries else ""

    def last_save(self) -> str:
        """Return the step and the age of its newest save; no age where no ledger tells of it."""
        for entry in reversed(self.entries):
            if isinstance(entry.event, Saved):
                return f"step {entry.event.step}, {age(time.time() - entry.utc_seconds)} ago"
        return "" if self._newest_committed is None else f"step {self._newest_committed}"

    def _is_finished(self) -> bool:
        """Return True where it has made all its steps: what was asked of it came too late."""
        has_all = self.reached_step() >= self.run.config.max_steps
        return self.progress().state == "finished" and has_all

    def _asked_note(self, asked: Request) -> str:
        note = f"{asked.verb} asked for by {self.asked_by()}"
        again = f": {run_command(self.run.store, 'control', 'resume')}"
        return note + (again if asked.verb == "pause" and not self.is_active() else "")

    def note(self) -> str:
        """Return what a person should know: why it waits, until when, why it failed."""
        notes = self._notes_of_slurm()
        if self.state().startswith(TRAINS):
            records = [] if self.is_here else self.records()
            notes += filter(None, [silence_of(self.progress(), self.entries, records)])
        for entry in self.entries:
            if entry.attempt == self.entries[-1].attempt and _is_worth_a_note(entry.event):
                notes.append(str(entry.event))
        saves = [e.event for e in self.entries if isinstance(e.event, Saved | SaveFailed)]
        if saves and isinstance(saves[-1], SaveFailed):
            notes.append(f"the last save failed: {saves[-1].error}")
        if (asked := self.asked()) is not None and not self._is_finished():
            notes.append(self._asked_note(asked))
        elif self.state() == "finished" and not self._is_finished() and not self.is_active():
            again = run_command(self.run.store, "finetune")
            notes.append(f"it ends at step {self.run.config.max_steps} now. Have it go on: {again}")
        outcome = self.outcome()
        if outcome is not None and not self.is_active():
            notes.append(outcome.error)
        return "; ".join(notes)

    def _notes_of_slurm(self) -> list[str]:
        """Return what its job's state means, and what to do about it."""
        records = self.records()
        active = [record for record in records if record.is_active]
        said = self.progress().state
        if (said in ENDED and not active) or (said == "finished" and self.state() == said):
            return []  # it has said its last word
        return [note for record in active or records[-1:] for note in notes_on(record)]

    def expected_start(self) -> str:
        """Return when Slurm expects it to start; "" where it does not wait, or nobody knows."""
        return next(filter(None, map(expected_start, self.records())), "")


def _is_worth_a_note(event: Event) -> bool:
    """Return True for what a person should know of an attempt as long as it is the newest."""
    return isinstance(event, ShortLead | SlowRank) or (
        isinstance(event, Changed) and bool(event.may_alter_bits)
    )
