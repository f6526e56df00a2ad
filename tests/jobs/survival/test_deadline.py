"""A job warns itself where Slurm would be too late, by the controller's clock and not the node's."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from instruct_core.errors import SlurmError
from jobs.slurm import JobRecord
from jobs.survival import deadline as deadline_module
from jobs.survival.deadline import HANG_EXIT_CODE, Deadline
from tests.conftest import wait_for
from tests.fakes import record


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


def test_controller_that_does_not_tell_its_clock_at_first_is_asked_again(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler.ahead = -120.0
    told = deadline_module.controller_seconds
    asked: list[float] = []

    def silent() -> int:
        asked.append(scheduler.now)
        raise SlurmError("no answer")

    monkeypatch.setattr(deadline_module, "controller_seconds", silent)
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(1000)
    for _ in range(3):
        deadline.look(stop_noted=False, step_seconds=1.0)
    assert len(asked) == 1  # and not several times a second

    monkeypatch.setattr(deadline_module, "controller_seconds", told)
    scheduler.now += 20
    deadline.look(stop_noted=False, step_seconds=1.0)
    assert not scheduler.warned
    scheduler.now += 976
    deadline.look(stop_noted=False, step_seconds=1.0)

    wait_for(lambda: scheduler.warned, "the warning")
