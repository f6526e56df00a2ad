"""One task of an array, whose parts are names of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instruct_core.errors import ConfigError
from instruct_core.storage import patience
from instruct_core.storage.store import Store
from jobs.array_job import ArrayJob
from jobs.failures import read_failures
from jobs.job_folder import AwayError, read_progress
from tests.slow_clock import Clock


@dataclass(frozen=True)
class Files(ArrayJob[Any]):
    """Makes empty files."""

    @property
    def store(self) -> Store:
        return Store(self.out)

    def plan(self) -> Any:
        return SimpleNamespace(num_parts=4)

    def missing(self, plan: Any) -> list[int]:
        return [part for part in range(plan.num_parts) if not self.is_made(plan, part)]

    def is_made(self, plan: Any, part: int) -> bool:
        return self.store.exists(str(part))

    def writer(self, plan: Any) -> Callable[[int], None]:
        return lambda part: self.store.replace(str(part), b"x")

    def is_complete(self, plan: Any) -> bool:
        return not self.missing(plan)

    def complete(self, plan: Any) -> None: ...


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "INSTRUCT_START": "0000000007-0000", "INSTRUCT_JOB": str(tmp_path / "task"),
        "SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    return clock


def test_task_that_is_warned_again_and_again_before_it_finished_a_part_ends_with_advice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Files(str(folder / "out"), num_tasks=1)
    for number in range(9):
        monkeypatch.setenv("INSTRUCT_START", f"0000000007-{number:04d}")
        job.checkpoint()

    monkeypatch.setenv("INSTRUCT_START", "0000000007-0009")
    with pytest.raises(ConfigError, match=r"before a part was made\. Raise --time"):
        job.checkpoint()


def test_task_that_finishes_parts_is_warned_as_often_as_it_likes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Files(str(folder / "out"), num_tasks=1)
    for number in range(9):
        monkeypatch.setenv("INSTRUCT_START", f"0000000007-{number:04d}")
        job.checkpoint()
    job()

    for number in range(9, 19):
        monkeypatch.setenv("INSTRUCT_START", f"0000000007-{number:04d}")
        job.checkpoint()

    assert read_progress(folder / "task").committed == 4


def test_full_disk_below_the_job_does_not_end_a_task(folder: Path, clock: Clock) -> None:
    (folder / "task" / "progress-0000000007-0000.json").mkdir(parents=True)

    assert Files(str(folder / "out"), num_tasks=1)() == 4


def test_task_whose_disk_is_full_for_a_while_leaves_word_of_its_end(
    folder: Path, clock: Clock
) -> None:
    """Without one it would count as not begun."""
    in_the_way = folder / "task" / "progress-0000000007-0000.json"
    in_the_way.mkdir(parents=True)
    clock.after(30, in_the_way.rmdir)

    Files(str(folder / "out"), num_tasks=1)()

    assert read_progress(folder / "task").committed == 4


def test_store_that_is_away_is_told_as_that(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(job: Files) -> None:
        raise OSError("no answer in time")

    monkeypatch.setattr(Files, "plan", away)

    with pytest.raises(AwayError):
        Files(str(folder / "out"), num_tasks=1)()

    assert [failure.away for failure in read_failures(folder / "task")] == [True]
