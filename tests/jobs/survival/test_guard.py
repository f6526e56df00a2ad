"""The thread that acts where the training cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from instruct_core.errors import SlurmError
from jobs.slurm import JobRecord
from jobs.survival import deadline as deadline_module
from jobs.survival import guard as guard_module
from jobs.survival.deadline import HANG_EXIT_CODE, Deadline
from jobs.survival.guard import Guard
from tests.conftest import HANGS_SECONDS, wait_for
from tests.fakes import record

HANGS = """
import sys, threading
from pathlib import Path
from jobs.survival import guard
guard.HANG_SECONDS, guard.HANG_STEPS, guard.STACKS_GRACE_SECONDS = 0.5, 3, 0.1
guard.POLL_SECONDS, guard.WRITE_SECONDS = 0.05, 0.5
with guard.Guard(lambda: False, Path(sys.argv[1]), rank=2) as watched:
    for _ in range(5):
        watched.working("step")
    watched.working(sys.argv[2])
    threading.Event().wait(2.0 if sys.argv[2] == "save" else 60.0)
"""

HANGS_BESIDE_A_SILENT_SCHEDULER = """
import sys, threading
from pathlib import Path
from jobs.survival import guard
guard.HANG_SECONDS, guard.HANG_STEPS, guard.STACKS_GRACE_SECONDS = 0.5, 3, 0.1
guard.POLL_SECONDS = 0.05
class Silent:
    def look(self, stop_noted, step_seconds):
        threading.Event().wait()
with guard.Guard(lambda: False, Path(sys.argv[1]), 2, Silent()) as watched:
    for _ in range(5):
        watched.working("step")
    threading.Event().wait(60.0)
"""

SUSPENDED = """
import sys, time
from pathlib import Path
from jobs.survival import guard
guard.HANG_SECONDS, guard.HANG_STEPS, guard.POLL_SECONDS = 1.0, 1, 0.02
with guard.Guard(lambda: False, Path(sys.argv[1]), rank=2) as watched:
    for step in range(60):
        watched.working("step")
        time.sleep(0.05)
        print(step, flush=True)
"""


def hanging(folder: Path, phase: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"INSTRUCT_START": "0007"}
    command = [sys.executable, "-c", HANGS, str(folder), phase]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=HANGS_SECONDS, check=False
    )


def test_hang_is_written_down_and_ended(tmp_path: Path) -> None:
    ended = hanging(tmp_path, "step")

    assert ended.returncode == HANG_EXIT_CODE
    stacks = (tmp_path / "stacks" / "0007-rank-00002.txt").read_text()
    assert "threading.py" in stacks
    failure = (tmp_path / "failure-0007-2.json").read_text()
    assert "rank 2 hangs" in failure
    assert '"retry": true' in failure


def test_hang_is_ended_where_nothing_can_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "stacks").write_text("in the way")
    (tmp_path / "failure-0007-2.json").mkdir()

    ended = hanging(tmp_path, "step")

    assert ended.returncode == HANG_EXIT_CODE
    assert "rank 2 hangs" in ended.stderr
    assert "threading.py" in ended.stderr


def test_hang_is_ended_where_the_disk_hangs_too(tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    os.mkfifo(tmp_path / "stacks" / "0007-rank-00002.txt")  # whoever opens it waits for a reader

    assert hanging(tmp_path, "step").returncode == HANG_EXIT_CODE


class Broken(Deadline):
    """Raises at the first looks, each time something else that a client or its answer can raise."""

    def __init__(self) -> None:
        super().__init__(lead_seconds=120, save_seconds=0.0)
        self.looks = 0

    def look(self, stop_noted: bool, step_seconds: float) -> None:
        self.looks += 1
        raise [BlockingIOError(11, "fork"), KeyError("JobState"), ValueError("x")][self.looks % 3]


def test_look_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "POLL_SECONDS", 0.01)
    broken = Broken()

    with Guard(lambda: False, tmp_path, 0, broken):
        wait_for(lambda: broken.looks > 6, "looks after the first three that failed")


def test_scheduler_that_does_not_answer_keeps_no_hang_alive(tmp_path: Path) -> None:
    env = os.environ | {"INSTRUCT_START": "0007"}
    command = [sys.executable, "-c", HANGS_BESIDE_A_SILENT_SCHEDULER, str(tmp_path)]

    ended = subprocess.run(command, env=env, timeout=HANGS_SECONDS, check=False)

    assert ended.returncode == HANG_EXIT_CODE


def test_save_may_take_longer_than_a_step(tmp_path: Path) -> None:
    assert hanging(tmp_path, "save").returncode == 0


def test_job_that_was_suspended_is_not_taken_for_hanging(tmp_path: Path) -> None:
    env = os.environ | {"INSTRUCT_START": "0007"}
    command = [sys.executable, "-c", SUSPENDED, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)  # how long it is suspended
        process.send_signal(signal.SIGCONT)

        assert process.wait(timeout=HANGS_SECONDS) == 0


class Scheduler:
    """Stands in for Slurm: gives the same record until told otherwise, and notes requeues."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.job: JobRecord | None = record()
        self.requeued: list[list[str]] = []
        self.warned: list[int] = []
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
        monkeypatch.setattr(deadline_module, "show_job", lambda job_id: self.job)
        monkeypatch.setattr(deadline_module, "run_client", self.requeued.append)
        self.now = time.time()
        monkeypatch.setattr(deadline_module, "utc_seconds", lambda: self.now)
        self.ahead = 0.0  # of the node's clock
        self.was_set = 0.0  # seconds by which somebody set it while the job ran
        monkeypatch.setattr(deadline_module, "monotonic", lambda: self.now - self.was_set)
        monkeypatch.setattr(
            deadline_module, "controller_seconds", lambda: int(self.now - self.ahead)
        )

    def set_clock(self, seconds: float) -> None:
        self.now += seconds
        self.ahead += seconds
        self.was_set += seconds

    def ends_in(self, seconds: float, **facts: object) -> None:
        end = datetime.fromtimestamp(self.now - self.ahead) + timedelta(seconds=seconds)
        self.job = record(end=end.isoformat(timespec="milliseconds"), **facts)  # type: ignore[arg-type]


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    scheduler = Scheduler(monkeypatch)
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: scheduler.warned.append(signum))
    yield scheduler
    signal.signal(signal.SIGUSR1, before)


def test_run_warns_itself_where_slurm_would_be_too_late(scheduler: Scheduler) -> None:
    deadline = Deadline(lead_seconds=20, save_seconds=40.0)
    scheduler.ends_in(300)
    deadline.look(stop_noted=False, step_seconds=10.0)

    assert not scheduler.warned
    assert deadline.short_lead == (20, 126.0)
    deadline = Deadline(lead_seconds=20, save_seconds=40.0)
    scheduler.ends_in(80)
    deadline.look(stop_noted=False, step_seconds=10.0)
    deadline.look(stop_noted=False, step_seconds=10.0)
    wait_for(lambda: scheduler.warned, "the warning")
    assert scheduler.warned == [signal.SIGUSR1]


def test_longer_limit_is_taken_note_of(scheduler: Scheduler) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(20)
    deadline.look(stop_noted=False, step_seconds=1.0)

    scheduler.ends_in(3600)
    deadline.look(stop_noted=False, step_seconds=10.0)

    assert not scheduler.warned


def test_ranks_that_do_not_come_to_a_step_are_requeued_before_the_kill(
    scheduler: Scheduler,
) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(3.2)
    deadline.look(stop_noted=True, step_seconds=1.0)
    assert not scheduler.requeued

    scheduler.now += 0.4
    deadline.look(stop_noted=True, step_seconds=1.0)
    deadline.look(stop_noted=True, step_seconds=1.0)

    assert scheduler.requeued == [["scontrol", "requeue", "7"]]


@pytest.mark.parametrize(
    "facts", [{"state": "COMPLETING"}, {"state": "COMPLETING", "num_restarts": 1}]
)
def test_cancelled_or_requeued_job_is_left_alone_at_the_deadline(
    scheduler: Scheduler, facts: dict[str, object]
) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(0.5, **facts)

    deadline.look(stop_noted=True, step_seconds=1.0)
    deadline.look(stop_noted=True, step_seconds=1.0)

    assert not scheduler.requeued


def test_job_cancelled_after_the_warning_is_not_brought_back(scheduler: Scheduler) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(3.1)
    deadline.look(stop_noted=True, step_seconds=1.0)

    scheduler.ends_in(3.1, state="COMPLETING")
    scheduler.now += 0.2
    deadline.look(stop_noted=True, step_seconds=1.0)

    assert not scheduler.requeued


def test_scheduler_that_is_silent_when_a_job_is_warned_is_asked_again(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(3600)
    deadline.look(stop_noted=False, step_seconds=1.0)
    scheduler.ends_in(3.2)  # preempted: the kill comes long before the time limit

    def away(job_id: str) -> None:
        raise SlurmError("scontrol did not answer")

    with monkeypatch.context() as now:
        now.setattr(deadline_module, "show_job", away)
        deadline.look(stop_noted=True, step_seconds=1.0)
    scheduler.now += 0.4
    deadline.look(stop_noted=True, step_seconds=1.0)

    assert scheduler.requeued == [["scontrol", "requeue", "7"]]


def test_follow_up_is_left_more_time_than_a_requeue(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(deadline_module, "os", SimpleNamespace(_exit=ended.append))
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(61.0, may_requeue=False)
    deadline.look(stop_noted=True, step_seconds=1.0)
    assert not ended

    scheduler.now += 31.5
    deadline.look(stop_noted=True, step_seconds=1.0)

    assert ended == [HANG_EXIT_CODE]


@pytest.mark.parametrize("ahead", [-120.0, 120.0])
def test_clock_of_the_node_decides_nothing(scheduler: Scheduler, ahead: float) -> None:
    scheduler.ahead = ahead
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(100)
    deadline.look(stop_noted=True, step_seconds=1.0)
    assert not scheduler.requeued

    scheduler.now += 98
    deadline.look(stop_noted=True, step_seconds=1.0)

    assert scheduler.requeued == [["scontrol", "requeue", "7"]]


@pytest.mark.parametrize("seconds", [86400.0, -3600.0])
def test_clock_that_is_set_while_a_job_runs_neither_ends_it_nor_hides_its_end(
    scheduler: Scheduler, seconds: float
) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(1800)
    deadline.look(stop_noted=False, step_seconds=1.0)

    scheduler.set_clock(seconds)
    deadline.look(stop_noted=False, step_seconds=1.0)
    assert not scheduler.warned
    scheduler.now += 1795
    deadline.look(stop_noted=False, step_seconds=1.0)

    wait_for(lambda: scheduler.warned, "the warning")
    assert scheduler.warned == [signal.SIGUSR1]
