"""What a person sees of a run that trains and makes no steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from instruct_core.events import Event
from instruct_core.storage.store import Store
from jobs.events import Crashed, Resumed
from jobs.job_folder import Progress, replace_json
from jobs.ledger import Entry, Ledger
from jobs.slurm import JobRecord
from launch.cluster.lock import RunLock
from launch.cluster.slurm import SlurmJob
from launch.runs import follower, silence
from launch.runs.follower import watch_slurm
from launch.runs.run import Run
from launch.runs.silence import silence_of
from launch.runs.status import RunStatus
from tests.fakes import record

NOW = 1_800_000_000.0
TOLD = "no step for 38 s, where one takes 0.25 s"
STARTED = "0000000007-0000"


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "time", SimpleNamespace(time=lambda: NOW))


def progress_of(
    ago: float | None = 38.0, step_seconds: float | None = 0.25, start: str = STARTED
) -> Progress:
    at = None if ago is None else NOW - ago
    return Progress(start=start, attempt=0, stepped_at=at, step_seconds=step_seconds)


@pytest.mark.parametrize(
    ("ago", "step_seconds", "told"),
    [
        (38.0, 0.25, TOLD),
        (15.0, 0.25, ""),  # a busy disk
        (70.0, 20.0, ""),
        (110.0, 20.0, "no step for 110 s, where one takes 20 s"),
        (None, 0.25, ""),  # it saves, validates, begins, or is of an older version
        (38.0, 0.0, ""),  # the rhythm is not known yet
        (38.0, None, ""),
    ],
)
def test_silence_is_what_is_long_beside_a_step(
    ago: float | None, step_seconds: float | None, told: str
) -> None:
    assert silence_of(progress_of(ago, step_seconds), [], []) == told


@pytest.mark.parametrize(
    ("events", "records"),
    [
        ([(0, Crashed("rank 1 was killed"))], []),
        ([(1, Resumed(4))], []),
        ([], [record(num_restarts=1)]),
        ([], [record()._replace(job_id="8")]),  # a follow-up
        ([], [record(state="PENDING")]),
    ],
)
def test_run_that_starts_again_is_not_told_for_silent(
    events: Sequence[tuple[int, Event]], records: list[JobRecord]
) -> None:
    entries = [Entry(attempt, NOW, event) for attempt, event in events]

    assert silence_of(progress_of(), entries, records) == ""
    assert silence_of(progress_of(), [], [record()]) == TOLD


def leave(folder: Path) -> None:
    facts = {"attempt": 0, "global_step": 4, "loss": 1.0, "tokens_per_second": 1.0}
    rhythm = {"stepped_at": NOW - 38.0, "step_seconds": 0.25}
    replace_json(
        folder / f"progress-{STARTED}.json",
        {"start": STARTED, "state": "running", **facts, **rhythm},
    )


def test_status_says_it_of_a_run_that_trains_and_of_no_other(project: Path) -> None:
    run = Run.find("r", str(project / "checkpoints"))
    leave(project / "runs" / "r" / "job" / "0000")
    assert TOLD not in RunStatus.of(run).note()
    lock = RunLock(run.lock)
    assert lock.acquire()

    note = RunStatus.of(run).note()
    lock.close()

    assert note == TOLD


def test_follower_says_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = SlurmJob(tmp_path / "job", str(tmp_path / "r"))
    leave(job.folder)
    Ledger(Store(job.ledger), 0).note(Resumed(0))
    turns = iter([True, True, True])
    monkeypatch.setattr(SlurmJob, "is_running", lambda job: next(turns, False))
    monkeypatch.setattr(SlurmJob, "records", lambda job: [record()])
    monkeypatch.setattr(follower, "SLURM_POLL_SECONDS", 0.0)

    watch_slurm(job, Run.named("r", str(tmp_path)))

    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "no step" in line] == [f"Step 4: {TOLD}"]
