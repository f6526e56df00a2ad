"""What rank 0 leaves in the job's folder, on a disk that fails for a while."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from instruct_core.storage import patience
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
