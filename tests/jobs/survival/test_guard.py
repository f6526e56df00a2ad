"""The thread that acts where the training cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.survival import guard as guard_module
from jobs.survival.deadline import Deadline
from jobs.survival.guard import HANG_EXIT_CODE, Guard
from tests.conftest import HANGS_SECONDS, wait_for

HANGS = """
import sys, threading
from pathlib import Path
from jobs.survival import guard
guard.HANG_SECONDS, guard.HANG_STEPS, guard.STACKS_GRACE_SECONDS = 0.5, 3, 0.1
guard.POLL_SECONDS, guard.WRITE_SECONDS = 0.05, 0.5
with guard.Guard(lambda: False, Path(sys.argv[1]), rank=2) as watched:
    for _ in range(5):
        watched.working("step")
    watched.working(sys.argv[2])
    threading.Event().wait(60.0 if sys.argv[2] == "step" else 2.0)
"""

HANGS_BESIDE_A_SILENT_SCHEDULER = """
import sys, threading
from pathlib import Path
from jobs.survival import guard
guard.HANG_SECONDS, guard.HANG_STEPS, guard.STACKS_GRACE_SECONDS = 0.5, 3, 0.1
guard.POLL_SECONDS = 0.05
class Silent:
    def look(self, stop_noted, step_seconds):
        threading.Event().wait()
with guard.Guard(lambda: False, Path(sys.argv[1]), 2, Silent()) as watched:
    for _ in range(5):
        watched.working("step")
    threading.Event().wait(60.0)
"""

SUSPENDED = """
import sys, time
from pathlib import Path
from jobs.survival import guard
guard.HANG_SECONDS, guard.HANG_STEPS, guard.POLL_SECONDS = 1.0, 1, 0.02
with guard.Guard(lambda: False, Path(sys.argv[1]), rank=2) as watched:
    for step in range(60):
        watched.working("step")
        time.sleep(0.05)
        print(step, flush=True)
"""


def hanging(folder: Path, phase: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"INSTRUCT_START": "0007"}
    command = [sys.executable, "-c", HANGS, str(folder), phase]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=HANGS_SECONDS, check=False
    )


def test_hang_is_written_down_and_ended(tmp_path: Path) -> None:
    ended = hanging(tmp_path, "step")

    assert ended.returncode == HANG_EXIT_CODE
    stacks = (tmp_path / "stacks" / "0007-rank-00002.txt").read_text()
    assert "threading.py" in stacks
    failure = (tmp_path / "failure-0007-2.json").read_text()
    assert "rank 2 hangs" in failure
    assert '"retry": true' in failure


def test_hang_is_ended_where_nothing_can_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "stacks").write_text("in the way")
    (tmp_path / "failure-0007-2.json").mkdir()

    ended = hanging(tmp_path, "step")

    assert ended.returncode == HANG_EXIT_CODE
    assert "rank 2 hangs" in ended.stderr
    assert "threading.py" in ended.stderr


def test_hang_is_ended_where_the_disk_hangs_too(tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    os.mkfifo(tmp_path / "stacks" / "0007-rank-00002.txt")  # whoever opens it waits for a reader

    assert hanging(tmp_path, "step").returncode == HANG_EXIT_CODE


class Broken(Deadline):
    """Raises at the first looks, each time something else that a client or its answer can raise."""

    def __init__(self) -> None:
        super().__init__(lead_seconds=120, save_seconds=0.0)
        self.looks = 0

    def look(self, stop_noted: bool, step_seconds: float) -> None:
        self.looks += 1
        raise [BlockingIOError(11, "fork"), KeyError("JobState"), ValueError("x")][self.looks % 3]


def test_look_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "POLL_SECONDS", 0.01)
    broken = Broken()

    with Guard(lambda: False, tmp_path, 0, broken):
        wait_for(lambda: broken.looks > 6, "looks after the first three that failed")


def test_scheduler_that_does_not_answer_keeps_no_hang_alive(tmp_path: Path) -> None:
    env = os.environ | {"INSTRUCT_START": "0007"}
    command = [sys.executable, "-c", HANGS_BESIDE_A_SILENT_SCHEDULER, str(tmp_path)]

    ended = subprocess.run(command, env=env, timeout=HANGS_SECONDS, check=False)

    assert ended.returncode == HANG_EXIT_CODE


def test_step_may_take_as_long_as_ten_of_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(guard_module, "monotonic", lambda: now)
    watched = Guard(lambda: False, tmp_path, 0)
    watched.working("step")
    patience = []

    for seconds in (1.0, 1.0, 200.0, 200.0, 200.0):
        now += seconds
        watched.working("step")
        patience.append(watched._patience())

    assert patience == [60.0, 60.0, 60.0, 1005.0, 2000.0]


@pytest.mark.parametrize("phase", ["save", "settling", "evaluation", "ending"])
def test_save_and_what_is_told_of_it_may_take_longer_than_a_step(
    tmp_path: Path, phase: str
) -> None:
    assert hanging(tmp_path, phase).returncode == 0


def test_job_that_was_suspended_is_not_taken_for_hanging(tmp_path: Path) -> None:
    env = os.environ | {"INSTRUCT_START": "0007"}
    command = [sys.executable, "-c", SUSPENDED, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)  # how long it is suspended
        process.send_signal(signal.SIGCONT)

        assert process.wait(timeout=HANGS_SECONDS) == 0
