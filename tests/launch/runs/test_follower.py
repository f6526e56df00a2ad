"""What a person sees of a job that is followed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from instruct_core.errors import SlurmError
from instruct_core.storage.store import Store
from jobs.failures import write_outcome
from jobs.job_folder import START, Progress, write_progress
from jobs.ledger import Entry, GrowingLedger
from jobs.slurm import JobRecord
from launch.cluster.local import LocalJob
from launch.cluster.slurm import SlurmJob
from launch.console.lines import EXIT_FAILED
from launch.runs import follower
from launch.runs.follower import watch, watch_slurm
from launch.runs.run import Run
from tests.fakes import record
from tests.launch.played_slurm import PlayedSlurm


def a_run(folder: Path) -> Run:
    return Run.named("r", str(folder))


def test_event_that_this_version_does_not_know_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job's code is frozen at submission: today's launcher may be older, or newer."""
    events = [
        {"utc_seconds": 1.0, "event": "moved", "step": 3, "to": "node2"},
        {"utc_seconds": 2.0, "event": "resumed", "step": 3},
    ]

    def ends(job: SlurmJob) -> bool:
        lines = "".join(json.dumps(event) + "\n" for event in events)
        Store(job.ledger).replace("attempt-0000.jsonl", lines.encode())
        return False

    monkeypatch.setattr(SlurmJob, "is_running", ends)

    exit_code = watch_slurm(SlurmJob(tmp_path / "job", str(tmp_path / "r")), a_run(tmp_path))

    said = capsys.readouterr().out.splitlines()
    assert said == ["moved: step 3, to node2", "Going on from step 3"]
    assert exit_code == EXIT_FAILED  # it has left no word of its end


@pytest.mark.parametrize("retry", [True, False])
def test_run_that_has_failed_is_told_with_the_traceback_of_what_nobody_understands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], retry: bool
) -> None:
    followed = Followed(tmp_path, monkeypatch)
    write_outcome(
        followed.job.folder, "ZeroDivisionError: x", "Traceback ...\n  y = 1 / 0\n", retry
    )

    assert watch_slurm(followed.job, a_run(tmp_path)) == EXIT_FAILED

    said = capsys.readouterr().err
    assert "error: run r failed: ZeroDivisionError: x" in said
    assert ("Traceback ...\n  y = 1 / 0\n" in said) == retry


class Followed:
    """A job that a test moves on each time it is looked at: one turn a look, then it ends."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.job = SlurmJob(folder / "job", str(folder / "r"))
        self.turns: list[Callable[[], None]] = []
        monkeypatch.setenv(START, "0000")
        monkeypatch.setattr(SlurmJob, "is_running", lambda job: self._turn())
        monkeypatch.setattr(SlurmJob, "never_starts", lambda job: False)
        monkeypatch.setattr(follower, "SLURM_POLL_SECONDS", 0.0)
        monkeypatch.setattr(follower, "LINE_SECONDS", -1.0)

    def _turn(self) -> bool:
        if not self.turns:
            return False
        self.turns.pop(0)()
        return True

    def ledger(self, attempt: int, *events: tuple[str, int]) -> None:
        """Write an attempt's file, whole."""
        lines = [{"utc_seconds": step, "event": name, "step": step} for name, step in events]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        Store(self.job.ledger).replace(f"attempt-{attempt:04d}.jsonl", text.encode())

    def reach(self, step: int) -> None:
        """Report a step."""
        write_progress(
            self.job.folder,
            Progress(global_step=step, max_steps=9, loss=1.0, tokens_per_second=1.0),
        )


def test_ctrl_c_before_a_run_here_is_looked_at_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody looks at it any more then: it would train on, unasked."""
    warned = list[signal.Signals]()
    monkeypatch.setattr(LocalJob, "is_running", lambda job: False)
    monkeypatch.setattr(LocalJob, "warn", lambda job, signum: warned.append(signum))

    class LedgerOfASlowDisk(GrowingLedger):
        def news(self) -> list[Entry]:
            signal.raise_signal(signal.SIGINT)
            return super().news()

    monkeypatch.setattr(follower, "GrowingLedger", LedgerOfASlowDisk)
    with subprocess.Popen(["true"]) as process:
        job = LocalJob(tmp_path / "job", process.pid, str(tmp_path / "r"), process=process)

        with suppress(KeyboardInterrupt):  # pytest would end
            watch(job, a_run(tmp_path))

    assert warned[:1] == [signal.SIGTERM]
    assert capsys.readouterr().out.startswith("Stopping: all ranks save at the next step")


@pytest.mark.parametrize(
    ("controller", "said"),
    [("true", "Run r is stopped."), ("false", "error: run r failed: its processes were killed")],
)
def test_run_that_somebody_stops_before_its_ranks_begin_is_not_told_for_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], controller: str, said: str
) -> None:
    with subprocess.Popen([controller]) as process:
        job = LocalJob(tmp_path / "job", process.pid, str(tmp_path / "r"), process=process)

        watch(job, a_run(tmp_path))

    told = capsys.readouterr()
    assert (told.out + told.err).startswith(said)


def test_late_line_of_a_lost_attempt_is_told_once_and_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Followed(tmp_path, monkeypatch)
    job.ledger(0, ("resumed", 1))

    def ghost_speaks() -> None:
        job.ledger(0, ("resumed", 1), ("stopped", 3))
        job.ledger(1, ("resumed", 2), ("requeued", 4))

    job.turns = [lambda: job.ledger(1, ("resumed", 2)), ghost_speaks]

    watch_slurm(job.job, a_run(tmp_path))

    assert capsys.readouterr().out.splitlines() == [
        "Going on from step 2",
        "Step 3: stopped",
        "Requeued: the next attempt goes on from step 4",
    ]


def test_steps_are_told_in_order_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a node is dead its last word stays; the next attempt begins further back."""
    job = Followed(tmp_path, monkeypatch)
    job.reach(3)
    job.turns = [
        lambda: job.ledger(0, ("resumed", 0), ("finished", 4)),  # newer than the step that was told
        lambda: job.reach(6),
        lambda: None,
        lambda: None,
        lambda: job.ledger(1, ("resumed", 4)),
        lambda: job.reach(5),
    ]

    watch_slurm(job.job, a_run(tmp_path))

    said = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in said if line.startswith("Step")] == [
        "Step 4", "Step 6 of 9", "Step 5 of 9",
    ]  # fmt: skip


def test_following_a_job_that_never_starts_ends(
    slurm: PlayedSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "job_ids").write_text("1\n")
    (tmp_path / "slurm/jobs/1").write_text("JobId=1 JobState=PENDING Reason=None\n")
    slurm.change("1", Reason="DependencyNeverSatisfied")

    exit_code = watch_slurm(SlurmJob(folder, str(tmp_path / "r")), a_run(tmp_path))

    assert exit_code == EXIT_FAILED
    assert "job 1 can never start: what it waits for has failed" in capsys.readouterr().err


def test_follower_of_a_queued_job_says_for_what_it_waits_as_often_as_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Followed(tmp_path, monkeypatch)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job_ids").write_text("7\n")
    job.turns = [lambda: None] * 4
    reasons = iter(["Resources", "Resources", "away", "Priority"])

    def records(_: SlurmJob) -> list[JobRecord]:
        if (reason := next(reasons, "None")) == "away":
            raise SlurmError("scontrol did not answer")
        return [record(state="PENDING")._replace(reason=reason)]

    monkeypatch.setattr(SlurmJob, "records", records)

    watch_slurm(job.job, a_run(tmp_path))

    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["Job 7", "Job 7"]
    assert "PENDING (Resources); waits for free nodes: fewer --nodes, or a shorter" in said[0]
    assert "PENDING (Priority); jobs of higher priority go first" in said[1]


def test_finished_run_is_talked_to_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Followed(tmp_path, monkeypatch)
    job.turns = [lambda: write_progress(job.job.folder, Progress(state="finished"))]

    exit_code = watch_slurm(job.job, Run.named("r", str(tmp_path / "my runs")))

    assert exit_code == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"Talk to it: python launch/chat.py --run r --checkpoints '{tmp_path}/my runs'"
