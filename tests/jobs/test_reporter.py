"""What rank 0 leaves in the job's folder, on a disk that fails for a while."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from instruct_core.checkpoints.manifest import Progress as StepProgress
from instruct_core.storage import patience
from instruct_core.train.progress import StepReport
from jobs import job_folder
from jobs import reporter as module
from jobs.events import Finished
from jobs.job_folder import Progress, read_progress
from jobs.reporter import Reporter
from tests.jobs.reporters import reporter_in
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
    return reporter_in(tmp_path, monkeypatch)


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


@pytest.mark.parametrize("phase", ["save", "evaluation", "settling", "ending"])
def test_progress_says_when_a_step_was_made_and_not_while_something_else_is_done(
    reporter: Reporter, tmp_path: Path, phase: str
) -> None:
    values = {"train/loss": 1.0, "train/tokens_per_second": 2.0, "time/data_seconds": 0.0}

    reporter.on_step(StepReport(StepProgress(1, 8, 64), values))
    stepping = read_progress(tmp_path / "job")
    reporter.working(phase)

    assert stepping.stepped_at is not None
    assert stepping.stepped_at <= stepping.updated_at
    assert stepping.step_seconds == 0.25
    assert read_progress(tmp_path / "job").stepped_at is None
    assert read_progress(tmp_path / "job").global_step == 1


def test_progress_says_that_a_step_has_begun_behind_a_save(
    reporter: Reporter, tmp_path: Path
) -> None:
    reporter.working("step")
    reporter.working("save")

    reporter.working("step")

    hanging = read_progress(tmp_path / "job")
    assert hanging.stepped_at is not None
    assert hanging.step_seconds == 0.25


@pytest.mark.parametrize(("step_seconds", "to_go"), [(0.0, ""), (60.0, ", 3.0 min to go")])
def test_log_says_how_long_the_rest_takes_once_that_is_known(
    reporter: Reporter, caplog: pytest.LogCaptureFixture, step_seconds: float, to_go: str
) -> None:
    caplog.set_level("INFO")
    guard: Any = reporter._guard
    guard.step_seconds = step_seconds
    values = {"train/loss": 1.0, "train/tokens_per_second": 2.0, "time/data_seconds": 0.0}

    reporter.on_step(StepReport(StepProgress(1, 8, 64), values))

    assert caplog.messages[-1] == f"step 1 of 4, loss 1.0000, 2 tokens/s{to_go}"
