"""A file that grows: what was flushed is on the disk, and whatever was not is written again."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from instruct_core.storage import growing_file
from instruct_core.storage.growing_file import GrowingFile
from tests.flushes import Flushes


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Flushes:
    system = Flushes()
    monkeypatch.setattr(growing_file, "os", system)
    return system


@pytest.mark.parametrize("more", [b"", b"three\n"])
@pytest.mark.parametrize("first", [b"", b"one\n"])
def test_pages_that_the_system_has_thrown_away_are_written_again(
    tmp_path: Path, system: Flushes, first: bytes, more: bytes
) -> None:
    file = GrowingFile(tmp_path / "lines", "lines")
    file.add(first)
    file.write(durably=True)
    file.add(b"two\n")
    file.write()  # as far as the system's cache
    file.add(more)

    system.refuses = 1
    answers = [file.write(durably=True), file.write(durably=True)]

    assert answers == [False, True]
    assert (tmp_path / "lines").read_bytes() == first + b"two\n" + more


def test_nothing_is_flushed_where_nothing_is_new(tmp_path: Path, system: Flushes) -> None:
    file = GrowingFile(tmp_path / "lines", "lines")
    file.add(b"one\n")
    file.write()

    assert all(file.write(durably=True) for _ in range(3))

    assert system.names == ["lines"]


def test_what_was_written_is_flushed_before_much_of_it_is_kept(
    tmp_path: Path, system: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_file, "MOST_UNFLUSHED_BYTES", 10)
    file = GrowingFile(tmp_path / "lines", "lines")

    for number in range(12):
        file.add(b"%02d\n" % number)
        file.write()

    assert system.names == ["lines"] * 3
    assert not file._kept
    assert (tmp_path / "lines").read_bytes() == b"".join(b"%02d\n" % n for n in range(12))


def test_file_that_is_sent_elsewhere_is_never_flushed(tmp_path: Path, system: Flushes) -> None:
    file = GrowingFile(tmp_path / "lines", "lines", is_scratch=True)
    file.add(b"one\n")

    assert file.write(durably=True)

    assert not system.names
    assert not file._kept
    assert (tmp_path / "lines").read_bytes() == b"one\n"


def test_new_names_are_flushed_with_the_first_records_however_often_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []

    def sync(folder: Path) -> None:
        synced.append(folder)
        if len(synced) == 2:
            raise OSError(errno.EIO, "not now")

    monkeypatch.setattr(growing_file, "sync_folder", sync)
    file = GrowingFile(tmp_path / "runs" / "r" / "lines", "lines")
    file.add(b"one\n")

    answers = [file.write(durably=True), file.write(durably=True)]

    assert answers == [False, True]
    assert set(synced[2:]) == {tmp_path, tmp_path / "runs", tmp_path / "runs" / "r"}
    file.add(b"two\n")
    file.write(durably=True)
    assert len(synced) == 5, "they are known by now"
    assert (tmp_path / "runs" / "r" / "lines").read_bytes() == b"one\ntwo\n"


def test_nobody_waits_for_a_thread_that_does_not_come_back_from_the_disk(
    tmp_path: Path, system: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_file, "OTHERS_SECONDS", 0.01)
    file = GrowingFile(tmp_path / "lines", "lines")
    file.add(b"one\n")
    system.is_back.clear()
    other = threading.Thread(target=file.write, kwargs={"durably": True})
    other.start()
    assert system.is_waiting.wait(60)
    file.add(b"two\n")

    assert not file.write()

    system.is_back.set()
    other.join(60)
    assert file.write()
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"
