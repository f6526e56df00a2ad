"""
A job on Slurm as launchers see it: found again by the note beside the run, whatever became of it.

    job_id = submit_slurm(FinetuneJob(...), folder, resources)
    job = SlurmJob.found(note_path)
    job.is_running(); job.state()

What Slurm does not know any more (it forgets ended jobs after minutes), the job's own folder tells.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instruct_core.converter import structure
from instruct_core.errors import ConfigError, CorruptFileError, SlurmError
from instruct_core.storage.json_text import loose_json
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.plain_file import text_of
from instruct_core.storage.store import Store
from jobs.job_folder import place_of, read_progress, replace_json
from jobs.queueing import known_jobs, queue
from jobs.slurm import (
    JobRecord,
    UnansweredError,
    lines_by_job,
    on_cluster,
    records_in,
    run_client,
    show_jobs,
    tasks_of,
)
from launch.cluster.expected import believable
from launch.cluster.job_folder import UNLIMITED, array_parent
from launch.cluster.machine import LOOK_SECONDS

if TYPE_CHECKING:
    from launch.cluster.script import Resources

UNKNOWN = "unknown (Slurm does not answer)"
ASK_AGAIN_SECONDS = 2.0  # one question to Slurm's controller serves so long
AWAY_SECONDS = 30.0  # and one that it did not answer, so long
NEVER_STARTS = "DependencyNeverSatisfied"
NEVER_STARTS_HELP = (
    "can never start: what it waits for has failed. Fix that, and give the same command again, which "
    "replaces the job"
)


class Controller:
    """
    Slurm's controller as one command asks it: while it is away it is asked once, not per job.

    Args:
        for_all: It will be asked about many jobs, and is asked once about all there are.
    """

    def __init__(self, for_all: bool = False) -> None:
        self._for_all, self._lines = for_all, dict[str, dict[str, list[str]]]()  # by cluster, job
        self._refusal: SlurmError | None = None
        self._refused_at = float("-inf")

    def records(self, job_id: str, cluster: str = "") -> list[JobRecord]:
        """Return what Slurm knows about a job; arguments and SlurmError as `show_jobs`."""
        if self._refusal is not None and time.monotonic() - self._refused_at < AWAY_SECONDS:
            raise self._refusal
        try:
            if not self._for_all:
                return show_jobs(job_id, LOOK_SECONDS, cluster)
            if cluster not in self._lines:
                self._lines[cluster] = lines_by_job(LOOK_SECONDS, cluster)
            return records_in(self._lines[cluster].get(job_id, []))
        except SlurmError as error:
            self._refusal, self._refused_at = error, time.monotonic()
            raise


@dataclass(frozen=True)
class _Note:
    """What `write_note` leaves."""

    folder: str
    ledger: str
    cluster: str = ""


@dataclass
class SlurmJob:
    """A job, or all arrays of one submission; a chained follow-up belongs to the same one."""

    folder: Path
    ledger: str = ""
    controller: Controller = field(default_factory=Controller)
    cluster: str = ""  # of Slurm's, where there are several
    _records: list[JobRecord] = field(default_factory=list)
    _asked_at: float = float("-inf")
    _forgotten: set[str] = field(default_factory=set)  # earlier jobs, which Slurm never knows again

    @classmethod
    def found(cls, note: Path, controller: Controller | None = None) -> SlurmJob | None:
        """
        Return the job that a note tells of; None where there is no note.

        Args:
            note: Its path.
            controller: Whom to ask, where several jobs are asked for.

        Raises:
            CorruptFileError: It is no note.
        """
        try:
            text = on_a_disk(note, lambda: text_of(note))
            word = structure(loose_json(text), _Note, str(note))
            return cls(Path(word.folder), word.ledger, controller or Controller(), word.cluster)
        except FileNotFoundError:
            return None
        except ValueError:
            raise CorruptFileError(
                f"{note} is damaged: it should name the job on Slurm. If none runs any more (squeue), "
                "remove it."
            ) from None

    def write_note(self, note: Path) -> None:
        """Leave word of this job for later launchers."""
        word = {"folder": str(self.folder), "ledger": self.ledger}
        if self.cluster:
            word["cluster"] = self.cluster
        on_a_disk(note, lambda: replace_json(note, word))

    @property
    def job_ids(self) -> list[str]:
        """Ids of the jobs, in the order of their submission."""
        return known_jobs(self.folder)

    @property
    def job_id(self) -> str:
        """The newest id, for messages."""
        return self.job_ids[-1] if self.job_ids else "unknown"

    @property
    def cancel_command(self) -> str:
        """What a person types to end it, on whatever cluster it is."""
        place = f"-M {self.cluster} " if self.cluster else ""
        return f"scancel {place}{' '.join(self.job_ids) or self.job_id}"

    @property
    def label(self) -> str:
        """The job and its state, for messages."""
        return f"{self.job_id}, {self.state()}"

    def records(self) -> list[JobRecord]:
        """Return what Slurm knows about the jobs; [] where it has forgotten them."""
        if time.monotonic() - self._asked_at > ASK_AGAIN_SECONDS:
            ids, records = self.job_ids, list[JobRecord]()
            for job_id in ids:
                if job_id not in self._forgotten:
                    told = self.controller.records(job_id, self.cluster)
                    found = [record for record in told if record.is_of(str(self.folder))]
                    records += found
                    if not found and job_id != ids[-1]:
                        self._forgotten.add(job_id)
            self._records, self._asked_at = records, time.monotonic()
        return self._records

    def is_running(self) -> bool:
        """Return True as long as a job waits or runs."""
        try:
            return any(record.is_active for record in self.records())
        except SlurmError:
            return True  # nobody can tell; to submit another one would be worse

    def is_ending(self) -> bool:
        """Return True if all that is left of it is being taken down, and it does not come back."""
        restarts, _ = place_of(read_progress(self.folder).start)
        active = self._active()
        return bool(active) and all(
            record.state == "COMPLETING" and record.num_restarts <= restarts for record in active
        )

    def never_starts(self) -> bool:
        """Return True if it waits for ever: what it waits for has failed."""
        active = self._active()
        return bool(active) and all(record.reason == NEVER_STARTS for record in active)

    def _active(self) -> list[JobRecord]:
        try:
            return [record for record in self.records() if record.is_active]
        except SlurmError:
            return []

    def cancel(self) -> None:
        """End those of its jobs that have not ended; raises SlurmError."""
        self._cancel(self._active())

    def cancel_waiting(self) -> None:
        """End those of its jobs that have not begun, and no others; raises SlurmError."""
        self._cancel(self.records(), "--state=PENDING")
        self._asked_at = float("-inf")

    def _cancel(self, records: Sequence[JobRecord], *options: str) -> None:
        ids = dict.fromkeys(record.job_id.partition("_")[0] for record in records)
        if ids:
            run_client(["scancel", *options, *ids], on_cluster(self.cluster))

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


def array_job(store: Store, controller: Controller | None = None) -> SlurmJob | None:
    """Return the array jobs that fill a store, or did so last; arguments as in `SlurmJob.found`."""
    return SlurmJob.found(array_parent(store) / "slurm.json", controller)


def running_array(store: Store) -> SlurmJob | None:
    """Return the array jobs that fill a store now, if there are any."""
    job = array_job(store)
    return job if job is not None and job.is_running() else None


def test_submission(folder: Path, resources: Resources) -> str:
    """
    Have Slurm judge a job without queueing it; return when it would start, "" where nobody knows.

    Raises:
        ConfigError: It would be refused; says why.
    """
    if "%" in str(folder):
        raise ConfigError(
            f"The folder of the job must have no % in its path, which submitit would read as a number "
            f"of the job, got {folder}. Rename the folder, or give another place."
        )
    from launch.cluster.refusal import judged, remedy  # here: who only asks needs neither
    from launch.cluster.script import batch_script

    text = batch_script(folder, resources)
    # The folder is not there yet, and the test writes nothing.
    text = "\n".join(line for line in text.splitlines() if "--chdir" not in line)
    try:
        said = judged(text, resources)
    except SlurmError as error:
        what, said = f"Slurm refuses this job in {resources.place}", str(error)
        advice = remedy(text, said) or "See it: --dry-run"
        raise ConfigError(f"{what}: {said.rstrip('.')}. {advice}") from None
    return believable(said.partition(" to start at ")[2].partition(" ")[0])


def submit_slurm(function: Callable[[], Any], folder: Path, resources: Resources) -> str:
    """
    Queue a job, or an array of them, whose folder is there; return its id. Note it, and then `settle`.

    Raises:
        ConfigError: Slurm refuses it; says why.
        UnansweredError: Slurm may have it, or take it later.
    """
    from submitit.core.utils import DelayedSubmission  # here: as in test_submission

    from launch.cluster.script import batch_script, pickle_name, script_name

    submission = DelayedSubmission(function)
    submission.set_timeout(resources.minutes, UNLIMITED)
    pickle, script = folder / pickle_name(resources), folder / script_name(resources)
    on_a_disk(pickle, lambda: submission.dump(pickle))
    text = batch_script(folder, resources)
    on_a_disk(script, lambda: script.write_text(text, encoding="utf-8"))
    try:
        return queue(script)
    except SlurmError as error:
        heard, name = not isinstance(error, UnansweredError), resources.name
        kind, what = (ConfigError, "was not") if heard else (UnansweredError, "may be")
        raise kind(f"Job {name} {what} queued: {error} See what is: squeue -n {name}") from None
