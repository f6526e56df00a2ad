"""A shard on a disk that fails: who reads it is told in words, and does not die of a signal."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.data.shards import ShardSet
from instruct_core.storage import patience
from instruct_core.storage.store import Store
from tests.conftest import launch, write_rows
from tests.shared_disk.faults import READ, Fault
from tests.shared_disk.mount import SharedDisk, needs_fuse
from tests.slow_clock import Clock

pytestmark = needs_fuse
IN_WORDS = 3


def ends_with(read: Callable[[], object]) -> int | None:
    """Return how a process ends that reads: 0, in words, or of a signal."""

    def read_or_say() -> None:
        try:
            read()
        except OSError as error:
            os._exit(IN_WORDS if str(error.filename).endswith(".safetensors") else 1)

    launcher = multiprocessing.get_context("fork").Process(target=read_or_say)
    launcher.start()
    launcher.join(60)
    return launcher.exitcode


def num_faults(disk: SharedDisk) -> int:
    return disk.counts().get("EIO", {"faults": 0})["faults"]


def test_page_that_the_disk_does_not_give_at_first_is_asked_for_again_and_kills_nobody(
    disk: SharedDisk, shard_set: Path
) -> None:
    store = Store(shutil.copytree(shard_set, disk.path / "set"))
    rows = ShardSet(store, "train")
    before = num_faults(disk)
    disk.plan([Fault("EIO", READ, "*.safetensors", seconds=0.5)])

    assert ends_with(rows.lengths) == 0
    assert num_faults(disk) == before + 1


@pytest.mark.parametrize(("times", "expected"), [(2, 0), (1000, IN_WORDS)])
def test_page_that_has_left_memory_since_it_was_verified_is_told_in_words(
    disk: SharedDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, expected: int
) -> None:
    monkeypatch.setattr(patience, "time", Clock())
    source = write_rows(tmp_path / "rows.jsonl", 250, words=1500)
    made = launch("preprocess", f"--source={source}", "--out=set", "--num-tasks=1", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    store = Store(shutil.copytree(tmp_path / "set", disk.path / f"set-{times}"))
    rows = ShardSet(store, "train")
    whole = [rows.tokens(row, 0, 10**6).tobytes() for row in range(len(rows))]
    again = ShardSet(store, "train")
    again.lengths()  # verified, and open
    del rows
    [shard] = store.local_path("train").glob("*.safetensors")
    with shard.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = num_faults(disk)
    disk.plan([Fault("EIO", READ, "*.safetensors", times=times)])

    def read() -> None:
        assert [again.tokens(row, 0, 10**6).tobytes() for row in range(len(again))] == whole

    assert ends_with(read) == expected
    assert num_faults(disk) == before + 1
