"""The shared disk of the tests itself: it is a file system, and it does wrong what it was told to."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from instruct_core.storage.direct import set_direct
from instruct_core.storage.tensor_file import PAGE_BYTES
from tests.shared_disk.faults import ALL, KINDS, NAMES, READ, Fault, Kind, drawn
from tests.shared_disk.mount import SharedDisk, needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SharedDisk]:
    with SharedDisk(tmp_path / "folder", tmp_path / "one") as disk:
        yield disk


def test_quiet_disk_is_an_ordinary_file_system(disk: SharedDisk) -> None:
    path, other = disk.path / "a", disk.path / "d" / "b"
    path.write_bytes(b"hello")
    other.parent.mkdir()

    other.hardlink_to(path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:1] = b"J"
        mapped.flush()
        os.fsync(file.fileno())
    with path.open("ab") as file:
        file.write(b" you")
    other.rename(disk.path / "c")

    assert path.stat().st_nlink == 2
    assert (disk.path / "c").read_bytes() == b"Jello you"
    assert sorted(os.listdir(disk.path)) == ["a", "c", "d"]  # noqa: PTH208  as the store lists
    with pytest.raises(FileExistsError):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    (disk.path / "d" / "e").touch()
    with pytest.raises(OSError, match="not empty"):
        (disk.path / "d").rmdir()


def test_lock_of_one_mount_is_held_against_the_other(disk: SharedDisk, tmp_path: Path) -> None:
    (disk.path / "lock").touch()
    with (
        SharedDisk(tmp_path / "folder", tmp_path / "two") as other,
        (disk.path / "lock").open() as held,
        (other.path / "lock").open() as wanted,
    ):
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(BlockingIOError):
            fcntl.flock(wanted, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.close()
        fcntl.flock(wanted, fcntl.LOCK_EX)  # FUSE tells of a close a little later


def test_disk_without_flock_says_so(tmp_path: Path) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "one", no_locks=True) as disk:
        with (
            (disk.path / "lock").open("w") as file,
            pytest.raises(OSError, match=os.strerror(errno.ENOSYS)),
        ):
            fcntl.flock(file, fcntl.LOCK_EX)

        assert disk.counts() == {"no flock": {"refused": 1}}


@pytest.mark.parametrize("kind", ["EIO", "ESTALE", "EDQUOT"])
def test_disk_refuses_what_it_was_told_to_refuse_and_then_no_more(
    disk: SharedDisk, kind: Kind
) -> None:
    path = disk.path / "a"
    path.write_bytes(b"hello")
    disk.plan([Fault(kind, ("write",), "/b*", times=2)])

    refused = []
    for name in ("b1", "a2", "b2", "b3"):
        try:
            (disk.path / name).write_bytes(b"x")
        except OSError as error:
            refused.append((name, error.errno))

    assert refused == [("b1", getattr(errno, kind)), ("b2", getattr(errno, kind))]
    assert (disk.path / "a2").read_bytes() == b"x"
    assert disk.counts() == {kind: {"faults": 1, "refused": 2}}
    assert disk.num_planned() == 0


def test_disk_that_hangs_answers_when_it_is_over(disk: SharedDisk) -> None:
    (disk.path / "a").write_bytes(b"hello")
    disk.plan([Fault("hang", ALL, seconds=0.2), Fault("EIO", READ, seconds=0.2)])

    with pytest.raises(OSError, match="Input/output"):
        (disk.path / "a").read_bytes()

    counts = disk.counts()
    assert counts["hang"] == {"faults": 1, "refused": 1}
    assert counts["EIO"]["faults"] == 1


def test_disk_that_loses_an_answer_has_done_what_it_was_asked(disk: SharedDisk) -> None:
    (disk.path / "a").write_bytes(b"hello")
    disk.plan([Fault("lost", NAMES, name, times=1) for name in ("/new", "/a", "/d", "/gone")])

    for ask in (
        (disk.path / "new").touch,
        lambda: (disk.path / "a").rename(disk.path / "gone"),
        (disk.path / "d").mkdir,
        (disk.path / "gone").unlink,
    ):
        with pytest.raises(OSError, match="Input/output"):
            ask()

    assert sorted(os.listdir(disk.path)) == ["d", "new"]  # noqa: PTH208
    assert disk.counts() == {"lost": {"faults": 4, "refused": 4}}


def test_disk_without_direct_access_refuses_it_at_open_read_and_write(tmp_path: Path) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "one", no_direct=True) as disk:
        path = disk.path / "a"
        path.write_bytes(b"x" * PAGE_BYTES)
        page = mmap.mmap(-1, PAGE_BYTES)  # begins on a page

        with pytest.raises(OSError, match="Invalid argument"):
            os.open(path, os.O_RDONLY | os.O_DIRECT)
        with path.open("r+b", buffering=0) as file:
            switched = set_direct(file.fileno(), True)
            refused = []
            for ask in (os.preadv, os.pwritev):
                with pytest.raises(OSError, match="Invalid argument") as caught:
                    ask(file.fileno(), [page], 0)
                refused.append(caught.value.errno)

        assert switched, "what refuses it is the file system's server, not the kernel"
        assert refused == [errno.EINVAL] * 2
        assert disk.counts() == {"no O_DIRECT": {"refused": 3}}


def test_new_files_of_another_mount_show_late_or_when_this_one_has_changed_the_folder(
    disk: SharedDisk, tmp_path: Path
) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "two", late_seconds=600) as late:
        assert os.listdir(late.path) == []  # noqa: PTH208
        assert not (late.path / "a").exists()
        (disk.path / "a").touch()

        seen = [(late.path / "a").exists(), os.listdir(late.path)]  # noqa: PTH208
        (late.path / ".look").touch()
        (late.path / ".look").unlink()
        seen += [(late.path / "a").exists(), os.listdir(late.path)]  # noqa: PTH208

        assert seen == [False, [], True, ["a"]]
        assert late.counts() == {"late": {"names": 1, "listings": 1}}


def test_faults_of_a_seed_are_always_the_same() -> None:
    assert drawn(3, 40) == drawn(3, 40) != drawn(4, 40)
    assert {fault.kind for fault in drawn(3, 40)} == set(KINDS)
