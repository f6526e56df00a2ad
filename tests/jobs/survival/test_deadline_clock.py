"""What a job asks of its time limit: by the controller's clock, of a controller that may be silent."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import pairwise

import pytest

from instruct_core.errors import SlurmError
from jobs.slurm import RefusedError
from jobs.survival import deadline as deadline_module
from jobs.survival.deadline import Deadline
from tests.conftest import wait_for
from tests.jobs.survival.scheduler import Scheduler


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

    def silent(timeout: float) -> int:
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


def test_limit_that_was_raised_is_known_though_the_controller_is_silent_when_a_warning_is_due(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(1000)
    deadline.look(stop_noted=False, step_seconds=1.0)
    scheduler.ends_in(3600)
    scheduler.now += 960  # half a minute before the warning
    deadline.look(stop_noted=False, step_seconds=1.0)

    monkeypatch.setattr(deadline_module, "show_job", silent_for(scheduler, 30.0, []))
    for _ in range(40):
        scheduler.now += 1
        deadline.look(stop_noted=False, step_seconds=1.0)

    assert not scheduler.warned


def test_controller_that_is_silent_all_along_does_not_keep_a_run_from_warning_itself_in_time(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = Deadline(lead_seconds=120, save_seconds=10.0)
    scheduler.ends_in(1000)
    deadline.look(stop_noted=False, step_seconds=1.0)
    ends_at = scheduler.now + 1000
    given: list[float] = []
    monkeypatch.setattr(deadline_module, "show_job", silent_for(scheduler, 30.0, given))

    scheduler.now += 900
    while not scheduler.warned and scheduler.now < ends_at:
        scheduler.now += 0.5
        deadline.look(stop_noted=False, step_seconds=1.0)

    assert ends_at - scheduler.now > 33 - deadline_module.QUICK_SECONDS - 1  # 33 s are needed
    assert len(given) < 12  # not at every look


def silent_for(
    scheduler: Scheduler, seconds: float, given: list[float]
) -> Callable[[str, float | None], None]:
    """Return a Slurm that never answers, and costs the time that it is given."""

    def ask(_: str, timeout: float | None = None) -> None:
        given.append(timeout or seconds)
        scheduler.now += given[-1]
        raise SlurmError("scontrol did not answer")

    return ask


def test_what_is_due_comes_before_the_clock_is_asked_again_and_nothing_is_asked_of_a_warned_job(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def silent(timeout: float) -> int:
        told.append("clock")
        raise SlurmError("no answer")

    monkeypatch.setattr(deadline_module, "controller_seconds", silent)
    monkeypatch.setattr(deadline_module, "run_client", lambda command: told.append(command[1]))
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(1000)
    deadline.look(stop_noted=False, step_seconds=1.0)
    assert told == ["clock"]

    scheduler.now += 995  # the clock has not been asked for long
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: told.append("warned"))
    deadline.look(stop_noted=False, step_seconds=1.0)
    wait_for(lambda: "warned" in told, "the warning")
    signal.signal(signal.SIGUSR1, before)
    for _ in range(3):
        scheduler.now += 100
        deadline.look(stop_noted=True, step_seconds=1.0)

    assert told == ["clock", "warned", "requeue"]


def test_clock_is_asked_with_growing_pauses_and_no_more_where_it_is_refused(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    problem: SlurmError = SlurmError("no answer")

    def silent(timeout: float) -> int:
        asked.append(scheduler.now)
        raise problem

    monkeypatch.setattr(deadline_module, "controller_seconds", silent)
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(7200)
    for _ in range(300):
        deadline.look(stop_noted=False, step_seconds=1.0)
        scheduler.now += 1
    assert [round(b - a) for a, b in pairwise(asked)] == [10, 20, 40, 60, 60, 60]

    problem = RefusedError("Permission denied")
    scheduler.now += 60
    for _ in range(3):
        deadline.look(stop_noted=False, step_seconds=1.0)
        scheduler.now += 600
    assert len(asked) == 8


def test_time_that_is_told_too_late_is_not_believed(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells = deadline_module.controller_seconds

    def slow(timeout: float) -> float:
        told = tells(timeout)
        scheduler.now += 25
        return told

    scheduler.ahead = 120.0
    deadline = Deadline(lead_seconds=120, save_seconds=1.0)
    scheduler.ends_in(1000)
    with monkeypatch.context() as now:
        now.setattr(deadline_module, "controller_seconds", slow)
        deadline.look(stop_noted=False, step_seconds=1.0)

    scheduler.now += 100
    deadline.look(stop_noted=False, step_seconds=1.0)  # it is told at once now
    scheduler.now += 867  # 8 s are left, and 10.5 s are needed
    deadline.look(stop_noted=False, step_seconds=1.0)

    wait_for(lambda: scheduler.warned, "the warning")
