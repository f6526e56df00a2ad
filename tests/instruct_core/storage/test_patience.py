"""How long a disk or a store is asked again, and what is said of it meanwhile."""

from __future__ import annotations

import errno
import logging
from types import SimpleNamespace

import pytest

from instruct_core.storage import patience
from instruct_core.storage.patience import passes_on_a_disk, patiently


class Clock:
    """Stands in for the module's clock: a pause takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        stand_in = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr(patience, "time", stand_in)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def away_until(clock: Clock, end: float) -> str:
    if clock.now < end:
        raise OSError(errno.ESTALE, "Stale file handle", "/shared/run.json")
    return "here"


def test_who_waits_for_minutes_says_so_once_and_when_it_is_over(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    end = clock.now + 170

    assert patiently(lambda: away_until(clock, end), 900, passes_on_a_disk) == "here"

    assert [record.getMessage() for record in caplog.records] == [
        "No answer for 12 s, asked for 900 s: [Errno 116] Stale file handle: '/shared/run.json'",
        "Answered after 172 s",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_answer_that_nothing_is_there_is_one_too(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    end = clock.now + 20

    def look() -> None:
        away_until(clock, end)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with pytest.raises(FileNotFoundError):
        patiently(look, 900, passes_on_a_disk)

    assert caplog.records[-1].getMessage() == "Answered after 22 s"


def test_what_passes_in_seconds_is_not_told(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    end = clock.now + 9

    assert patiently(lambda: away_until(clock, end), 900, passes_on_a_disk) == "here"

    assert not caplog.records


def test_patience_ends(clock: Clock) -> None:
    began_at = clock.now

    with pytest.raises(OSError, match="Stale"):
        patiently(lambda: away_until(clock, began_at + 1000), 900, passes_on_a_disk)

    assert 890 < clock.now - began_at <= 900
