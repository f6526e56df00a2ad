"""A job warns itself where Slurm would be too late, and comes back where its ranks are too late."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from instruct_core.errors import SlurmError
from jobs.failures import read_outcome
from jobs.job_folder import ASKS_BACK, job_folder, replace_json
from jobs.survival import deadline as deadline_module
from jobs.survival.deadline import Deadline
from tests.conftest import wait_for
from tests.jobs.survival.scheduler import Scheduler


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

    def away(job_id: str, timeout: float | None = None) -> None:
        raise SlurmError("scontrol did not answer")

    with monkeypatch.context() as now:
        now.setattr(deadline_module, "show_job", away)
        deadline.look(stop_noted=True, step_seconds=1.0)
    scheduler.now += 0.4
    deadline.look(stop_noted=True, step_seconds=1.0)

    assert scheduler.requeued == [["scontrol", "requeue", "7"]]


def test_scheduler_that_is_silent_at_the_deadline_is_asked_again(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(3.2)
    deadline.look(stop_noted=True, step_seconds=1.0)
    scheduler.now += 0.4

    def away(words: list[str]) -> None:
        raise SlurmError("scontrol did not answer")

    with monkeypatch.context() as now:
        now.setattr(deadline_module, "run_client", away)
        deadline.look(stop_noted=True, step_seconds=1.0)
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

    assert ended == [ASKS_BACK]


def look_when_no_step_comes(scheduler: Scheduler) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(2.8)
    deadline.look(stop_noted=True, step_seconds=1.0)


def test_starts_that_never_come_to_a_step_come_to_an_end_with_advice(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a run whose loading takes longer than its time limit: it was requeued for ever."""
    monkeypatch.setattr(deadline_module, "COUNT_SECONDS", 60.0)  # of a machine that is busy
    replace_json(job_folder() / "warnings.json", {"committed": 5, "in_a_row": 9, "start": "6-0000"})

    look_when_no_step_comes(scheduler)

    assert not scheduler.requeued
    outcome = read_outcome(job_folder())
    assert outcome is not None
    assert "warned 10 times in a row before a step was made" in outcome.error


def test_disk_that_hangs_keeps_no_job_from_its_requeue(scheduler: Scheduler) -> None:
    os.mkfifo(job_folder() / "warnings.json")  # whoever reads it waits for a writer

    look_when_no_step_comes(scheduler)

    assert scheduler.requeued == [["scontrol", "requeue", "7"]]


def test_count_that_comes_too_late_is_no_last_word_of_a_job_that_was_requeued(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    others = set(threading.enumerate())
    monkeypatch.setattr(deadline_module, "COUNT_SECONDS", 0.0)
    monkeypatch.setattr(deadline_module, "allows_fruitless_start", lambda *_: not answered.wait(60))

    look_when_no_step_comes(scheduler)
    [counting] = set(threading.enumerate()) - others
    answered.set()
    counting.join(60)

    assert scheduler.requeued == [["scontrol", "requeue", "7"]]
    assert read_outcome(job_folder()) is None
