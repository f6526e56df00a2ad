"""Where the seconds of an attempt go: each has a name, and none is counted twice."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from jobs import timesheet
from jobs.process import start_ticks
from jobs.timesheet import LOADED_SINCE, Timesheet


class Clock:
    """A module's clock that a test sets."""

    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def clock_gettime(self, which: int) -> float:
        return time.clock_gettime(which)

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timesheet, "time", clock)
    return clock


def test_seconds_go_to_what_was_begun_last_from_the_process_on(clock: Clock) -> None:
    sheet = Timesheet()
    age = time.time() - psutil.Process().create_time()
    sheet.begins("meeting")
    clock.now += 3.0
    sheet.begins("first step")
    clock.now += 2.0

    spent = sheet.spent()

    assert spent["meeting"] == 3.0
    assert spent["first_step"] == 2.0
    assert spent["imports"] == pytest.approx(age, abs=5.0)
    assert spent["imports"] > 0


def test_tasks_that_share_a_loading_begin_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ten_seconds = 10 * os.sysconf("SC_CLK_TCK")
    monkeypatch.setenv(LOADED_SINCE, str(start_ticks(os.getpid()) - ten_seconds))
    with_loading = Timesheet()
    monkeypatch.delenv(LOADED_SINCE)
    alone = Timesheet()

    seconds = [sheet.spent()["imports"] for sheet in (with_loading, alone)]
    assert seconds[0] - seconds[1] == pytest.approx(10.0, abs=1.0)
    assert seconds[0] >= 10.0


def test_wait_for_data_is_moved_from_the_steps_and_never_more_than_they_took(clock: Clock) -> None:
    sheet = Timesheet()
    sheet.begins("step")
    clock.now += 10.0
    sheet.spent()

    sheet.waited_for_data(4.0)
    sheet.waited_for_data(9.0)

    assert {name: sheet.spent()[name] for name in ("step", "data")} == {"step": 0.0, "data": 10.0}
