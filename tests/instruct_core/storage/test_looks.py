"""A disk that does not answer is not taken for an empty one, by no version of Python."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.shards import ShardSet
from instruct_core.storage import looks, patience
from instruct_core.storage.looks import entries_below, entries_in, is_folder, is_there
from instruct_core.storage.store import Store
from jobs.job_folder import read_progress
from launch.cluster.job_folder import job_folders
from tests.slow_clock import Clock


class SickOs:
    """The module's `os`, some of whose looks at a path fail."""

    def __init__(self, end: str, times: int) -> None:
        self._end, self.times = end, times

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("stat", "listdir"):
            return real

        def call(path: Path) -> Any:
            self._fail(path)
            return real(path)

        return call

    def walk(self, folder: Path, onerror: Callable[[OSError], None]) -> Iterator[Any]:
        try:
            self._fail(folder)
        except OSError as error:
            onerror(error)
        return os.walk(folder)

    def _fail(self, path: Path) -> None:
        if self.times and str(path).endswith(self._end):
            self.times -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


Sick = Callable[[str, int], SickOs]


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Sick:
    """Have the first looks at what ends so fail."""
    monkeypatch.setattr(patience, "time", Clock())

    def make(end: str, times: int) -> SickOs:
        sick_os = SickOs(end, times)
        monkeypatch.setattr(looks, "os", sick_os)
        return sick_os

    return make


LOOKS: list[Callable[[Path], object]] = [
    is_there, is_folder, partial(entries_in, pattern="*"), partial(entries_below, pattern="*"),
]  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
def test_look_that_has_no_answer_says_so(
    tmp_path: Path, sick: Sick, look: Callable[[Path], object]
) -> None:
    sick(tmp_path.name, 1)

    with pytest.raises(OSError, match="Input/output error"):
        look(tmp_path)


def test_what_is_there_is_found_and_what_is_not_is_not(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("x.py", "b/y.py", "b/c/z.py", "b/c/.hidden.py", "b/x.txt"):
        (tmp_path / name).touch()
    (tmp_path / "circle").symlink_to("circle")

    assert [path.name for path in entries_in(tmp_path, "*.py")] == ["x.py"]
    assert entries_below(tmp_path, "*.py") == sorted(tmp_path.rglob("*.py"))
    for name in ("none", "x.py", "circle", "circle/x"):
        assert entries_in(tmp_path / name, "*") == []
    assert is_folder(tmp_path / "b")
    assert not is_folder(tmp_path / "x.py")
    assert is_there(tmp_path / "x.py")
    for name in ("none", "x.py/none", "circle"):
        assert not is_there(tmp_path / name)


def test_store_on_a_sick_disk_is_asked_again_and_is_not_empty(tmp_path: Path, sick: Sick) -> None:
    """A run that asks whether it has saved would begin anew."""
    (tmp_path / "committed.json").touch()
    disk = sick("committed.json", 3)

    assert Store(tmp_path, patience_seconds=60).exists("committed.json")
    assert not disk.times


def test_shard_on_a_sick_disk_is_not_called_gone(shard_set: Path, sick: Sick) -> None:
    rows = ShardSet(Store(shard_set), "train")
    disk = sick(".safetensors", 2)

    assert len(rows.lengths()) == len(rows)
    assert not disk.times


@pytest.mark.parametrize("read", [read_progress, job_folders])
def test_folder_of_a_job_on_a_sick_disk_does_not_look_as_if_nothing_had_begun(
    tmp_path: Path, sick: Sick, read: Callable[[Path], object]
) -> None:
    sick(tmp_path.name, 1)

    with pytest.raises(OSError, match="Input/output error"):
        read(tmp_path)
