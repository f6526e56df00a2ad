"""The lock of a run: who holds it, on which host, and on disks that have none."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.cluster import lock as module
from launch.cluster.local import LocalJob
from launch.cluster.lock import Holder, RunLock
from launch.runs import follower
from launch.runs.follower import watch
from launch.runs.run import Run


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any run."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


def held_by(tmp_path: Path, pid: int, **facts: object) -> RunLock:
    """Return a lock that is held, by the word of its file for a process."""
    lock = RunLock(tmp_path / "lock")
    assert lock.acquire()
    lock.name_job(pid, tmp_path / "job", str(tmp_path / "r"))
    entry = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps(entry | facts) + "\n")
    return lock


@pytest.mark.parametrize(
    "word",
    [
        b"", b"\xff{\n", b"{\n", b"[1]\n", b"7\n", b'{"folder": "/job"}\n',
        b'{"pid": "x", "folder": "/job", "ledger": "/r"}\n',
        b'{"pid": 1, "folder": 2, "ledger": "/r"}\n', b"[" * 100_000 + b"\n",
    ],
)  # fmt: skip
def test_lock_that_is_held_and_whose_word_is_damaged_is_one_line(
    tmp_path: Path, word: bytes
) -> None:
    """Or one such run would end every look at all runs."""
    lock = held_by(tmp_path, os.getpid())
    (tmp_path / "lock").write_bytes(word)

    with pytest.raises(ConfigError, match=r"is being started by another launcher\. Try again"):
        LocalJob.found(tmp_path / "lock")

    lock.close()


def test_lock_that_goes_as_it_is_looked_at_is_held_by_nobody(
    tmp_path: Path,
) -> None:
    """Its run has been removed, or renamed, just now."""
    path = tmp_path / "lock"
    path.touch()

    class GoingPath(type(path)):  # type: ignore[misc]
        def exists(self) -> bool:
            there = super().exists()
            self.unlink(missing_ok=True)
            return bool(there)

    assert not RunLock.is_held(GoingPath(path))


def can_be_taken(path: Path) -> bool:
    lock = RunLock(path)
    got = lock.acquire()
    lock.close()
    return got


def test_job_here_is_ours_and_takes_signals(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    lock = held_by(tmp_path, stranger.pid)
    job = LocalJob.found(tmp_path / "lock")
    assert job is not None

    job.warn(signal.SIGTERM)

    assert (job.where, job.how_to_stop) == ("", f"kill {stranger.pid}")
    assert stranger.wait() == -signal.SIGTERM
    lock.close()


@pytest.mark.parametrize(
    ("facts", "how_to_stop"),
    [({"host": "node7"}, "kill {pid} on node7"), ({"started": 1}, "kill {pid}")],
)
def test_process_of_the_same_number_elsewhere_or_later_takes_no_signal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stranger: subprocess.Popen[bytes],
    facts: dict[str, object],
    how_to_stop: str,
) -> None:
    lock = held_by(tmp_path, stranger.pid, **facts)
    job = LocalJob.found(tmp_path / "lock")
    assert job is not None

    def ctrl_c(seconds: float) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(follower, "time", type("Clock", (), {"sleep": ctrl_c, "monotonic": float}))
    exit_code = watch(job, Run.named("r", str(tmp_path)))
    for signum in (signal.SIGTERM, signal.SIGKILL):
        job.warn(signum)

    assert exit_code == 0
    assert stranger.poll() is None
    said = capsys.readouterr().out
    assert f"the job goes on. Save and end it: {how_to_stop.format(pid=stranger.pid)}" in said
    lock.close()


def test_lock_of_an_older_version_names_no_host_and_is_only_watched(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "lock")
    assert lock.acquire()
    entry = {"pid": os.getpid(), "folder": str(tmp_path), "ledger": ""}
    (tmp_path / "lock").write_text(json.dumps(entry) + "\n")

    job = LocalJob.found(tmp_path / "lock")

    assert job is not None
    assert not job.is_ours
    lock.close()


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has no locks."""

    def flock(file: object, kind: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(
        module,
        "fcntl",
        type("Disk", (), {"flock": flock, "LOCK_EX": 2, "LOCK_SH": 1, "LOCK_NB": 4}),
    )


@pytest.mark.usefixtures("no_locks")
def test_word_of_a_living_process_stands_in_where_a_disk_has_no_locks(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "lock"
    first = RunLock(path)
    assert not RunLock.is_held(path)

    assert first.acquire()
    assert RunLock.is_held(path)
    assert not can_be_taken(path)
    first.name_job(stranger.pid, tmp_path, "")
    first.close()

    assert RunLock.is_held(path)
    assert not can_be_taken(path)
    assert not RunLock.works(path)
    stranger.kill()
    stranger.wait()
    assert not RunLock.is_held(path)
    assert can_be_taken(path)


@pytest.mark.usefixtures("no_locks")
def test_launcher_that_starts_nothing_lets_go_where_a_disk_has_no_locks(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "lock")
    assert lock.acquire()

    lock.close()

    assert not RunLock.is_held(tmp_path / "lock")


@pytest.mark.usefixtures("no_locks")
def test_process_of_another_host_may_live_where_a_disk_has_no_locks(tmp_path: Path) -> None:
    lock = held_by(tmp_path, os.getpid(), host="node7")

    assert RunLock.is_held(tmp_path / "lock")
    assert not can_be_taken(tmp_path / "lock")
    lock.close()


def test_process_with_an_odd_name_is_told_by_its_start(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to(sys.executable)
    process = subprocess.Popen([odd, "-c", "import signal; signal.pause()"])

    holder = Holder.of(process.pid)

    assert holder.started > 0
    assert holder.is_here
    process.kill()
    process.wait()
    assert not holder.is_here
