"""
A job on Slurm as launchers see it: found again by the note beside the run, whatever became of it.

    job = SlurmRun.found(note_path)
    job.is_running(); job.states()

What Slurm does not know any more (it forgets ended jobs after minutes), the job's own folder tells.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from instruct_core.errors import CorruptFileError, SlurmError
from jobs.after_step import JOB_IDS
from jobs.slurm import JobRecord, show_jobs, tasks_of

UNKNOWN = "unknown (Slurm does not answer)"
ASK_AGAIN_SECONDS = 2.0  # one question to Slurm's controller serves so long


@dataclass
class SlurmRun:
    """A job, or all arrays of one submission; a chained follow-up belongs to the same one."""

    folder: Path
    ledger: str = ""
    _records: list[JobRecord] = field(default_factory=list)
    _asked_at: float = float("-inf")

    @classmethod
    def found(cls, note: Path) -> SlurmRun | None:
        """Return the job that a note tells of; None where there is no note. Raises CorruptFileError."""
        try:
            entry = json.loads(note.read_text())
            return cls(Path(entry["folder"]), entry["ledger"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise CorruptFileError(
                f"{note} is damaged: it should name the job on Slurm. If none runs any more (squeue), "
                "remove it."
            ) from None

    def write_note(self, note: Path) -> None:
        """Leave word of this job for later launchers."""
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch = note.with_name(f".{note.name}")
        scratch.write_text(json.dumps({"folder": str(self.folder), "ledger": self.ledger}))
        scratch.replace(note)

    @property
    def job_ids(self) -> list[str]:
        """Ids of the jobs, in the order of their submission."""
        try:
            return (self.folder / JOB_IDS).read_text().split()
        except FileNotFoundError:
            return []

    @property
    def job_id(self) -> str:
        """The newest id, for messages."""
        return self.job_ids[-1] if self.job_ids else "unknown"

    def records(self) -> list[JobRecord]:
        """Return what Slurm knows about the jobs; [] where it has forgotten them."""
        if time.monotonic() - self._asked_at > ASK_AGAIN_SECONDS:
            self._records = [record for job_id in self.job_ids for record in show_jobs(job_id)]
            self._asked_at = time.monotonic()
        return self._records

    def is_running(self) -> bool:
        """Return True as long as a job waits or runs."""
        try:
            return any(record.is_active for record in self.records())
        except SlurmError:
            return True  # nobody can tell; to submit another one would be worse

    def state(self) -> str:
        """Return the newest job's state with its reason, as in `PENDING (Priority)`."""
        try:
            records = self.records()
        except SlurmError:
            return UNKNOWN
        if not records:
            return ""
        active = [record for record in records if record.is_active]
        record = (active or records)[-1]
        reason = record.reason if record.state == "PENDING" and record.reason != "None" else ""
        return f"{record.state} ({reason})" if reason else record.state

    def summary(self) -> str:
        """Return how many tasks of the arrays are in which state: `3 RUNNING, 61 PENDING`."""
        counts: Counter[str] = Counter()
        try:
            for record in self.records():
                counts[record.state] += max(1, len(tasks_of(record.job_id)))
        except SlurmError:
            return UNKNOWN
        return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))

    def log_path(self, task: int = 0) -> Path:
        """Return where a task of the newest job writes what it logs."""
        return self.folder / f"{self.job_id}_{task}_log.out"
