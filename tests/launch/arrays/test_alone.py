"""Two commands that fill one folder at the same time: the second is refused, and nothing is mixed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.shards import is_written, write_shard
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import ConfigError
from jobs.preprocess import PreprocessJob
from launch.arrays import alone as module
from launch.arrays import here
from launch.arrays.alone import alone
from launch.arrays.array import make
from launch.arrays.here import write_at_hand
from launch.arrays.work import Work
from launch.cluster import lock as locks
from launch.cluster.local import LocalJob
from launch.flags.array import ArrayFlags
from launch.flags.slurm import SlurmFlags
from tests.launch.arrays.test_array import made, work_of
from tests.launch.test_errors import snapshot

BUSY = "Shards s are being made by another command. Wait for it, or give another --out"


def made_here(work: Work) -> int:
    """Make a work in this process."""
    return make(work, ArrayFlags(cluster="debug"), SlurmFlags(), None, parallelism_here=1)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Work, Work]:
    """Two works of different sources for one folder, each begun when there was nothing."""
    works = []
    for num_rows in (600, 900):
        place = tmp_path / str(num_rows)
        place.mkdir()
        job = PreprocessJob(str(tmp_path / "s"), num_tasks=2)
        works.append(replace(work_of(place, num_rows), job=job))
    return works[0], works[1]


def test_second_command_is_refused_while_the_first_fills_the_folder(
    two: tuple[Work, Work], tmp_path: Path
) -> None:
    first, second = two
    refusals = list[str]()

    def meanwhile() -> None:
        before = snapshot(tmp_path)
        with pytest.raises(ConfigError) as refused:
            made_here(second)
        refusals.append(str(refused.value))
        assert snapshot(tmp_path) == before

    made_here(replace(first, provide=meanwhile))

    assert refusals == [f"{BUSY}."]
    assert isinstance(first.plan, ShardPlan)
    assert [is_written(first.job.store, first.plan, shard) for shard in range(3)] == [True] * 3
    assert first.is_complete()


def test_command_that_looked_before_another_had_begun_is_refused_once_that_has_ended(
    two: tuple[Work, Work], tmp_path: Path
) -> None:
    first, second = two
    made_here(first)
    before = snapshot(tmp_path)

    with pytest.raises(ConfigError, match="Shards s were begun by another command meanwhile"):
        made_here(second)

    assert snapshot(tmp_path) == before
    made_here(replace(second, old=first.plan, discard=lambda: None))  # the same command again
    assert second.is_complete()


def test_array_that_was_queued_since_the_last_look_refuses_the_next(
    two: tuple[Work, Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Queued:
        job_id, cancel_command = "7", "scancel 7"

        def never_starts(self) -> bool:
            return False

    monkeypatch.setattr(module, "running_array", lambda _: Queued())
    before = snapshot(tmp_path)

    with pytest.raises(ConfigError, match=r"by another command, job 7\. Wait .* end it: scancel 7"):
        made_here(two[1])

    assert [path for path in snapshot(tmp_path) if path not in before] == ["s", "s/.job.lock"]


def test_task_that_outlives_its_command_keeps_others_off(two: tuple[Work, Work]) -> None:
    with alone(two[0]) as lock:
        inherited = os.dup(lock.fd)

    with pytest.raises(ConfigError, match=BUSY), alone(two[1]):
        pass

    os.close(inherited)
    with alone(two[1]):
        pass


def test_word_of_a_lost_host_is_named_where_a_disk_has_no_locks(
    two: tuple[Work, Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_flock", lambda file, kind: None)
    two[0].lock.parent.mkdir()
    two[0].lock.write_text('{"pid": 1, "host": "node7", "started": 5}\n')

    with (
        pytest.raises(ConfigError, match=r"if it has ended, remove .*/s/\.job\.lock"),
        alone(two[0]),
    ):
        pass


def test_task_that_outlives_a_killed_command_keeps_others_off_without_locks_too(
    two: tuple[Work, Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_flock", lambda file, kind: None)
    reader, writer = os.pipe()
    task = subprocess.Popen(["cat"], stdin=subprocess.PIPE)

    started = itertools.count()

    def starts(*_: object, **__: object) -> LocalJob:
        if next(started):  # so the task before has been named
            os.write(writer, b"!")
            signal.pause()  # it is killed here: what is no child of it, it would take for ended
        return LocalJob(two[0].parent, task.pid, process=task)

    monkeypatch.setattr(here, "submit_local", starts)
    if (command := os.fork()) == 0:
        try:
            with alone(two[0]) as lock:
                here.run_here(two[0], range(2), 2, lock)
        finally:
            os._exit(1)
    assert os.read(reader, 1) == b"!"
    os.kill(command, signal.SIGKILL)
    os.waitpid(command, 0)
    os.close(reader)
    os.close(writer)

    with pytest.raises(ConfigError, match=BUSY), alone(two[1]):
        pass

    task.communicate(b"")
    with alone(two[1]):
        pass


def test_shards_that_another_site_overwrote_are_not_called_ready(two: tuple[Work, Work]) -> None:
    """In a bucket, where the locks of a disk do not reach."""
    first, second = two

    def at_hand(parts: Sequence[int]) -> Iterator[None]:
        assert isinstance(first.plan, ShardPlan)
        for shard in parts:
            write_shard(first.job.store, first.plan, shard, load_tokenizer())
            yield
        made(second)

    with pytest.raises(ConfigError, match="Shards s are not complete: another command has written"):
        write_at_hand(replace(first, at_hand=at_hand), range(first.num_parts))
