"""What rank 0 leaves in the job's folder, on a disk that fails for a while."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from instruct_core.config import TrainConfig
from instruct_core.storage import patience
from jobs import job_folder
from jobs import reporter as module
from jobs.events import Finished
from jobs.job_folder import Progress, read_progress
from jobs.reporter import Reporter
from jobs.timesheet import Timesheet
from jobs.world import World
from tests.slow_clock import Clock


class Disk:
    """Refuses so many times to replace the progress, and has a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses, self.clock = 0, Clock()
        monkeypatch.setattr(patience, "time", self.clock)
        monkeypatch.setattr(module, "write_progress", self._write)

    def _write(self, folder: Path, progress: Progress) -> None:
        if self.refuses:
            self.refuses -= 1
            raise OSError(errno.ESTALE, "stale")
        job_folder.write_progress(folder, progress)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def reporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reporter:
    monkeypatch.setenv("INSTRUCT_JOB", str(tmp_path / "job"))
    monkeypatch.setenv("INSTRUCT_START", "0001")
    config = TrainConfig(
        "r", "s", "c", str(tmp_path), "random", "tiny", "f", max_steps=4, tokens_per_step=512,
        seq_len=8, micro_batch_size=8,
    )  # fmt: skip
    world = World(0, 1, 0, 1, "7", "")
    guard: Any = None
    return Reporter(config, 0, world, torch.device("cpu"), guard, None, Timesheet())


def test_last_word_of_an_attempt_is_said_again_where_the_disk_fails_for_a_while(
    reporter: Reporter, disk: Disk, tmp_path: Path
) -> None:
    disk.refuses = 3

    reporter.ended(Finished(4), is_warned=False)

    assert read_progress(tmp_path / "job").state == "finished"


def test_step_does_not_wait_for_a_disk_that_fails(reporter: Reporter, disk: Disk) -> None:
    disk.refuses = 3
    before = disk.clock.now

    reporter._report_progress("running", global_step=1)

    assert disk.clock.now == before
