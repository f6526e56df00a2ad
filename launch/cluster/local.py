"""
Jobs on this machine, as submitit's tasks below our own controller.

    job = submit_local(FinetuneJob(...), folder, num_tasks=4, lock=lock, imports=["jobs.attempt"])
    job = LocalJob.found(lock_path)

A job has a session of its own: closing the terminal does not end it. As long as it lives it holds a
lock on the run, so a second launcher attaches instead of starting a second writer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruct_core.errors import ConfigError
from instruct_core.storage.names import identity, rename
from instruct_core.storage.patience import on_a_disk
from jobs.slurm import clean_environment
from jobs.survival.stop_signal import WARNINGS
from launch.cluster.frozen_code import CODE
from launch.cluster.gpus import VISIBLE
from launch.cluster.job_folder import UNLIMITED
from launch.cluster.lock import Holder, RunLock, holder_in, word_of
from launch.cluster.machine import THREADS


@dataclass
class LocalJob:
    """A job on this machine, started here or found running."""

    folder: Path
    pid: int
    ledger: str = ""
    process: subprocess.Popen[bytes] | None = None
    lock: Path | None = None  # of one found running: nobody else tells when it ends
    holder: Holder | None = None  # of that lock

    @classmethod
    def found(cls, lock: Path) -> LocalJob | None:
        """
        Return the job that holds a lock; None if nobody holds it.

        Raises:
            ConfigError: A launcher has it, which has not said for which job, or does something else.
        """
        if not RunLock.is_held(lock):
            return None
        entry = word_of(lock)
        try:
            folder, ledger, holder = Path(entry["folder"]), str(entry["ledger"]), holder_in(entry)
        except (KeyError, TypeError, ValueError):  # it names no job yet, or is damaged
            verb = entry.get("verb", "started")
            raise ConfigError(
                f"Run {lock.parent.name} is being {verb} by another launcher. Try again in a second."
            ) from None
        return cls(folder, holder.pid, ledger, lock=lock, holder=holder)

    @property
    def label(self) -> str:
        """The job in a word, for messages."""
        return str(self.pid)

    @property
    def is_ours(self) -> bool:
        """Whether its number is that of the controller here: elsewhere it is somebody else's."""
        return self.process is not None or (self.holder is not None and self.holder.is_here)

    @property
    def where(self) -> str:
        """The host it is on, as the end of a sentence; "" for this one."""
        return self.holder.where if self.holder is not None else ""

    @property
    def how_to_stop(self) -> str:
        """What can be typed to have it save and end, and where."""
        return f"kill {self.pid}{self.where}"

    def is_running(self) -> bool:
        """Return True as long as the controller lives."""
        if self.process is not None:
            return self.process.poll() is None
        return self.lock is not None and RunLock.is_held(self.lock)

    def exit_code(self) -> int:
        """Return how the controller ended; 0 where somebody else is its parent."""
        return self.process.wait() if self.process is not None else 0

    def ended_well(self) -> bool:
        """Return True for one that we started, and whose run was done or stopped when it ended."""
        return self.process is not None and self.exit_code() == 0

    def warn(self, signum: signal.Signals) -> None:
        """Pass a signal to the controller, which passes it to all tasks; to nobody else."""
        if self.is_ours and self.is_running():
            os.kill(self.pid, signum)

    def log_path(self, task: int = 0) -> Path:
        """Return where a task writes what it logs."""
        return self.folder / f"{self.pid}_{task}_log.out"


def submit_local(
    function: Callable[[], Any],
    folder: Path,
    num_tasks: int,
    lock: RunLock | None = None,
    code: Path | None = None,
    imports: Sequence[str] = (),
    gpu: str | None = None,
) -> LocalJob:
    """
    Start a job of ``num_tasks`` processes in a fresh folder, and return it.

    Args:
        function: What every task calls; it is pickled.
        folder: Of the job.
        num_tasks: Processes.
        lock: Held as long as the job lives.
        code: Folder with the frozen code, if not the job's own.
        imports: Modules that every task will load; loaded once for all of them and for later starts.
        gpu: That the tasks see, if not all; see `gpu_names`.
    """
    # Here: a look at a job needs neither.
    from submitit.core.utils import DelayedSubmission, JobPaths

    delayed = DelayedSubmission(function)
    delayed.set_timeout(UNLIMITED, UNLIMITED)
    on_a_disk(folder, lambda: folder.mkdir(parents=True, exist_ok=True))
    pickle = folder / "submitted.pkl"
    on_a_disk(pickle, lambda: delayed.dump(pickle))
    process = _start(folder, code or folder, num_tasks, lock, imports, gpu)
    expected = JobPaths(folder, str(process.pid)).submitted_pickle
    try:
        mine = on_a_disk(pickle, lambda: identity(pickle))
        on_a_disk(expected, lambda: rename(pickle, expected, mine))
    except OSError:
        process.kill()  # it would wait for what does not come
        process.wait()
        raise
    return LocalJob(folder, process.pid, process=process)


def _start(
    folder: Path,
    code: Path,
    num_tasks: int,
    lock: RunLock | None,
    imports: Sequence[str],
    gpu: str | None,
) -> subprocess.Popen[bytes]:
    """Start the controller of a job, which finds what it should call by its own number."""
    env = (
        THREADS
        | clean_environment()
        | {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(num_tasks),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_PREEMPT_SIGNAL": "USR2",  # whose handler StopSignal hands over to
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(code / CODE), os.environ.get("PYTHONPATH")))
            ),
            "PYTHONSAFEPATH": "1",
        }
        | ({} if gpu is None else {VISIBLE: gpu})
    )
    controller = [sys.executable, "-u", "-m", "jobs.patient", "jobs.survival.local_controller"]
    path = folder / "controller.log"
    with on_a_disk(path, lambda: path.open("ab")) as log:
        # It inherits them blocked: a warning waits until it can listen, and does not end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
        try:
            return subprocess.Popen(
                [*controller, str(folder), *imports],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.fd] if lock else [],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
