"""Whether a job is being queued just now, on a disk that does not answer at the first look."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from instruct_core.storage import patience
from jobs import queueing
from jobs.job_folder import JOB_IDS
from jobs.queueing import MARK, is_being_queued, is_unsettled, known_jobs, queue
from tests.slow_clock import Clock


class Locks:
    """Stands in for the module's fcntl: refuses so often, and then tells the truth."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusals: list[int] = []
        self.at_each_lock: Callable[[], None] = lambda: None
        names = ("LOCK_EX", "LOCK_NB")
        stand_in = SimpleNamespace(
            flock=self._flock, **{name: getattr(fcntl, name) for name in names}
        )
        monkeypatch.setattr(queueing, "fcntl", stand_in)
        monkeypatch.setattr(patience, "time", Clock())

    def _flock(self, file: object, kind: int) -> None:
        self.at_each_lock()
        if self.refusals:
            number = self.refusals.pop()
            raise OSError(number, os.strerror(number))
        fcntl.flock(file, kind)  # type: ignore[arg-type]


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> Locks:
    return Locks(monkeypatch)


def test_what_is_no_id_among_those_of_a_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / JOB_IDS).write_bytes(b"12\n\x00\x00\x80\xff\n--help\n12\n13\n")

    assert known_jobs(tmp_path) == ["12", "13"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_job_that_another_launcher_queues_is_seen_though_the_disk_refuses_the_first_looks(
    tmp_path: Path, locks: Locks, number: int
) -> None:
    with (tmp_path / MARK).open("wb") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        locks.refusals = [number] * 3

        assert is_being_queued(tmp_path)
    assert not is_being_queued(tmp_path)


def test_mark_of_a_job_that_is_being_queued_is_seen_by_nobody_before_it_is_locked(
    tmp_path: Path, locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[str]()
    locks.at_each_lock = lambda: seen.append(f"locks, marked: {is_unsettled(tmp_path)}")

    def submit(*_: object, **__: object) -> str:
        locks.at_each_lock = lambda: None
        seen.append(f"queues, marked: {is_unsettled(tmp_path)}, busy: {is_being_queued(tmp_path)}")
        return "7"

    monkeypatch.setattr(queueing, "submit_script", submit)

    assert queue(tmp_path / "job.sh") == "7"

    assert seen == ["locks, marked: False", "queues, marked: True, busy: True"]
    assert is_unsettled(tmp_path)
    assert not is_being_queued(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job_ids", MARK]


def test_disk_that_never_says_whether_a_job_is_being_queued_queues_no_second_one(
    tmp_path: Path, locks: Locks
) -> None:
    (tmp_path / MARK).touch()
    locks.refusals = [errno.EIO] * 1000

    with pytest.raises(OSError, match="Input/output"):
        is_being_queued(tmp_path)


def test_disk_without_locks_has_nobody_queue(tmp_path: Path, locks: Locks) -> None:
    (tmp_path / MARK).touch()
    locks.refusals = [errno.ENOLCK]

    assert not is_being_queued(tmp_path)
