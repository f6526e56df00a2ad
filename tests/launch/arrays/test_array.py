"""An array on this machine, without its processes: what is asked, and what is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import write_manifest, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.tokenizer import load_tokenizer
from jobs.preprocess import PreprocessJob
from launch.arrays import here
from launch.arrays.alone import alone
from launch.arrays.work import Work
from launch.flags.preprocess import Preprocess
from tests.conftest import write_rows


def work_of(tmp_path: Path, num_rows: int = 600) -> Work:
    """Return the work of making shards in a folder, with two tasks, none of it done."""
    rows = str(write_rows(tmp_path / "rows.jsonl", num_rows))
    plan = scan(Source("rows", "rows", [rows]), None, limit_rows=None, skip_bad_rows=False)
    return Work(
        job=PreprocessJob(str(tmp_path / "s"), num_tasks=2),
        plan=plan,
        old=None,
        what="Shards",
        where="s",
        name="shards-s",
        about=[],
        discard=lambda: None,
        provide=lambda: None,
        ready=lambda: "Ready",
        next_step="See",
        flags=Preprocess(),
    )


@pytest.fixture
def before() -> Iterator[Any]:
    """What TERM does before an array is run."""

    def handler(signum: int, frame: FrameType | None) -> None: ...

    outside = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, outside)


class EndedJob:
    """A job that has ended well, and noted how TERM was handled when it was looked at."""

    pid = os.getpid()
    term: Any = None

    def __init__(self) -> None:
        self.warned = list[signal.Signals]()

    def is_running(self) -> bool:
        self.term = signal.getsignal(signal.SIGTERM)
        return False

    def warn(self, signum: signal.Signals) -> None:
        self.warned.append(signum)

    def exit_code(self) -> int:
        return 0


def test_term_ends_the_tasks_and_is_what_it_was_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Any
) -> None:
    jobs = list[EndedJob]()

    def submit(*args: Any, **kwargs: Any) -> EndedJob:
        jobs.append(EndedJob())
        return jobs[-1]

    monkeypatch.setattr(here, "submit_local", submit)

    work = work_of(tmp_path)
    made(work)
    with alone(work) as lock:
        exit_code = here.run_here(work, tasks=[0, 1], parallelism=1, lock=lock)

    assert exit_code == 0
    assert [job.term for job in jobs] == [signal.default_int_handler] * 2
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_a_task_is_started_ends_that_task_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Any, signum: signal.Signals
) -> None:
    jobs = list[EndedJob]()

    def submit(*args: Any, **kwargs: Any) -> EndedJob:
        signal.raise_signal(signum)
        jobs.append(EndedJob())
        return jobs[-1]

    monkeypatch.setattr(here, "submit_local", submit)
    work = work_of(tmp_path)

    with pytest.raises(KeyboardInterrupt), alone(work) as lock:
        here.run_here(work, tasks=[0], parallelism=1, lock=lock)

    assert [job.warned for job in jobs] == [[signal.SIGKILL]]
    assert signal.getsignal(signal.SIGTERM) is before


def test_tasks_have_a_gpu_each_and_share_them_where_they_are_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Job(EndedJob):
        """Ends once all that may run beside it have been started."""

        def is_running(self) -> bool:
            return len(jobs) % 3 != 0

    jobs, given = list[EndedJob](), list[str | None]()

    def submit(*_: Any, gpu: str | None, **__: Any) -> EndedJob:
        given.append(gpu)
        jobs.append(Job())
        return jobs[-1]

    monkeypatch.setattr(here, "submit_local", submit)

    work = work_of(tmp_path)
    made(work)

    with alone(work) as lock:
        here.run_here(replace(work, gpus=["2", "0"]), tasks=range(6), parallelism=3, lock=lock)
        here.run_here(work, tasks=range(3), parallelism=3, lock=lock)

    assert given == ["2", "0", "2", "2", "0", "2", None, None, None]


def test_what_is_missing_is_to_do_and_says_nothing(tmp_path: Path) -> None:
    work = work_of(tmp_path)

    todo = work.todo()

    assert todo == ([0, 1, 2], [], False)
    assert work.tasks_of(todo.parts) == [0, 1]
    assert work.shares_of(todo.parts) == ["  task 0: shards 0, 2", "  task 1: shards 1"]


def test_damage_is_to_do_and_is_named(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    made(work)
    shard = tmp_path / "s/train/00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])

    todo = work.todo()

    assert todo == ([1], ["Shard 1 in s is damaged, and is made again."], True)


def test_what_is_of_another_plan_is_to_do_and_is_not_called_damaged(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    made(work)
    assert isinstance(work.plan, ShardPlan)

    todo = replace(work, plan=replace(work.plan, template="other")).todo()

    assert todo == ([0, 1, 2], [], False)


def made(work: Work) -> None:
    """Make all shards of a work."""
    assert isinstance(work.plan, ShardPlan)
    for shard in range(work.plan.num_parts):
        write_shard(work.job.store, work.plan, shard, load_tokenizer())
    write_manifest(work.job.store, work.plan)


def test_tasks_that_find_no_part_are_not_counted_one_by_one(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    many = replace(work, job=PreprocessJob(str(tmp_path / "s"), num_tasks=10**12))

    shares = many.shares_of([0, 2])

    assert shares == ["  task 0: shards 0", "  task 2: shards 2"]
