"""A run that is started here, while somebody presses Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instruct_core.config import TrainConfig
from instruct_core.storage.store import Store
from jobs.finetune import FinetuneJob
from launch.cluster.local import LocalJob
from launch.cluster.lock import RunLock
from launch.cluster.lost import folder_to_submit
from launch.flags.finetune import Finetune
from launch.runs.run import Run
from launch.training import submission
from launch.training.submission import OnThisMachine


@pytest.fixture
def term_interrupts() -> Iterator[None]:
    """TERM ends the launcher, and not the tests."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("term_interrupts")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_a_run_is_started_stops_it_and_leaves_no_lock_of_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signum: signal.Signals,
) -> None:
    """Whoever looks at a run whose lock names no job is told to try again in a second, for ever."""
    run = Run("r", Store(tmp_path / "checkpoints" / "r"), str(tmp_path / "runs"))
    config = TrainConfig(
        run="r", shards="s", checkpoints=run.checkpoints, runs=run.runs, init="random", model="tiny",
        data_fingerprint="f", max_steps=10,
    )  # fmt: skip
    warned, lock = list[tuple[int, signal.Signals]](), RunLock(run.lock)
    assert lock.acquire()
    inherited = os.dup(lock.fd)  # as the job's controller has it

    def submit(_: FinetuneJob, folder: Path, *__: Any, **___: Any) -> LocalJob:
        signal.raise_signal(signum)
        (folder / f"{os.getpid()}_submitted.pkl").touch()
        return LocalJob(folder, os.getpid())

    monkeypatch.setattr(submission, "submit_local", submit)
    monkeypatch.setattr(LocalJob, "warn", lambda job, signum: warned.append((job.pid, signum)))

    with pytest.raises(KeyboardInterrupt), folder_to_submit(run.job_parent) as folder:
        OnThisMachine(Finetune(), run, why="").submit(FinetuneJob(config, "v"), folder, lock)

    found = LocalJob.found(run.lock)
    os.close(inherited)
    assert found is not None
    assert found.folder == folder
    assert warned == [(os.getpid(), signal.SIGTERM)]
    said = capsys.readouterr()
    assert said.out == "Stopping run r, just begun. Give the same command again to go on.\n"
    assert said.err == ""
