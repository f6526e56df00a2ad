"""A job's function is called once its pickle is there; that it was needs no room on any disk."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

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


def test_work_that_is_done_leaves_nothing_behind_that_a_full_disk_could_refuse(
    folder: Path,
) -> None:
    place = folder / f"{os.getpid()}_submitted.pkl"
    DelayedSubmission(os.getpid).dump(place)

    call_job(folder)

    assert [path.name for path in folder.iterdir()] == [place.name]
