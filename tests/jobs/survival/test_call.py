"""A job's function is called once its pickle is there; that it was needs no room on any disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from jobs.job_folder import ASKS_BACK, FOLDER
from jobs.survival import rank
from jobs.survival.call import call_job
from launch.cluster.in_process import only_task_of


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2)}
    with only_task_of(tmp_path):
        yield tmp_path
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def test_pickle_that_is_moved_to_its_place_late_is_waited_for(folder: Path) -> None:
    called = folder / "called"
    early, place = folder / "early", folder / f"{os.getpid()}_submitted.pkl"
    DelayedSubmission(called.touch).dump(early)
    mover = threading.Timer(0.3, lambda: early.rename(place))
    mover.start()

    call_job(folder)

    assert called.exists()


class Late:
    """A job that the disk refuses at the first read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Late.read, (self._folder,)

    @staticmethod
    def read(folder: Path) -> Late:
        with (folder / "reads").open("a") as file:
            file.write("x")
        if (folder / "reads").stat().st_size == 1:
            raise OSError(errno.EIO, "Input/output error")
        return Late(folder)

    def __call__(self) -> None:
        (self._folder / "called").touch()


def test_job_that_a_rank_reads_is_read_again_where_the_disk_refuses_and_no_oftener(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DelayedSubmission(Late(folder)).dump(folder / f"{os.getpid()}_submitted.pkl")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv(FOLDER, str(folder))
    monkeypatch.setattr("sys.argv", ["rank", str(folder)])

    rank.main()

    assert (folder / "called").exists()
    assert (folder / "reads").read_text() == "xx"


def test_work_that_is_done_leaves_nothing_behind_that_a_full_disk_could_refuse(
    folder: Path,
) -> None:
    place = folder / f"{os.getpid()}_submitted.pkl"
    DelayedSubmission(os.getpid).dump(place)

    call_job(folder)

    assert [path.name for path in folder.iterdir()] == [place.name]


class Warned:
    """A job that is warned, and that nobody can requeue."""

    def __init__(self, problem: Exception) -> None:
        self._problem = problem

    def __call__(self) -> None:
        signal.raise_signal(signal.SIGUSR2)

    def checkpoint(self) -> None:
        raise self._problem


@pytest.mark.parametrize(
    "problem",
    [OSError(errno.ENOSPC, "No space left"), subprocess.CalledProcessError(1, "scontrol requeue")],
)
def test_task_that_cannot_requeue_its_job_says_so_by_what_it_exits_with(
    folder: Path, problem: Exception
) -> None:
    """An error would count as a crash, of a node that has done nothing."""
    DelayedSubmission(Warned(problem)).dump(folder / f"{os.getpid()}_submitted.pkl")

    with pytest.raises(SystemExit) as ended:
        call_job(folder)

    assert ended.value.code == ASKS_BACK
