"""One of a drill's two runs."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from launch.cluster.lock import RunLock
from launch.drills import trial
from launch.drills.trial import Trial


def test_job_whose_command_ended_before_it_watched_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[subprocess.Popen[bytes]] = []

    def end_early(_words: Iterable[str]) -> int:
        place = tmp_path / "checkpoints" / "hit"
        place.mkdir(parents=True)
        lock = RunLock(place / "lock")
        assert lock.acquire()
        jobs.append(subprocess.Popen(["sleep", "60"], pass_fds=[lock.fd]))
        lock.name_job(jobs[0].pid, tmp_path, "")
        lock.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "type_command", end_early)

    with pytest.raises(KeyboardInterrupt):
        Trial("hit", tmp_path, []).run()

    assert jobs[0].wait() == -signal.SIGKILL
