"""
Jobs on this machine, through submitit's LocalExecutor and our controller.

    job = submit_local(FinetuneJob(...), folder, num_tasks=4, lock=lock, imports=["jobs.attempt"])
    job = LocalJob.found(lock_path)

A job has a session of its own: closing the terminal does not end it. As long as it lives it holds a
lock on the run, so a second launcher attaches instead of starting a second writer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.local import local as submitit_local

from instruct_core.errors import ConfigError
from jobs.slurm import clean_environment
from launch.cluster.frozen_code import CODE
from launch.cluster.job_folder import UNLIMITED
from launch.cluster.lock import Holder, RunLock, holder_in
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
            ConfigError: A launcher has just taken it, and has not said for which job.
        """
        if not RunLock.is_held(lock):
            return None
        text = lock.read_text(encoding="utf-8")
        entry = json.loads(text) if text.endswith("\n") else {}
        if "folder" not in entry:
            raise ConfigError(
                f"Run {lock.parent.name} is being started by another launcher. Try again in a second."
            )
        folder, holder = Path(entry["folder"]), holder_in(entry)
        return cls(folder, holder.pid, entry["ledger"], lock=lock, holder=holder)

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

    def warn(self, signum: signal.Signals) -> None:
        """Pass a signal to the controller, which passes it to all tasks; to nobody else."""
        if self.is_ours and self.is_running():
            os.kill(self.pid, signum)

    def log_path(self, task: int = 0) -> Path:
        """Return where a task writes what it logs."""
        return self.folder / f"{self.pid}_{task}_log.out"


class _LocalExecutor(submitit.LocalExecutor):  # type: ignore[misc]  # submitit is not typed
    """submitit's local executor, with our controller in place of its own."""

    def __init__(
        self,
        folder: Path,
        code: Path,
        num_tasks: int,
        lock: RunLock | None,
        imports: Sequence[str],
    ) -> None:
        super().__init__(folder, max_num_timeout=UNLIMITED)
        self.update_parameters(tasks_per_node=num_tasks, timeout_min=UNLIMITED)
        self._code, self._lock, self._imports = code, lock, imports

    def _submit_command(self, command: str) -> submitit_local.LocalJob[Any]:  # noqa: ARG002  forked
        env = (
            THREADS
            | clean_environment()
            | {
                "SUBMITIT_EXECUTOR": "local",
                "SUBMITIT_LOCAL_NTASKS": str(self._num_tasks()),
                "SUBMITIT_LOCAL_NODEID": "0",
                "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
                "SUBMITIT_PREEMPT_SIGNAL": "USR2",  # whose handler StopSignal hands over to
                "PYTHONPATH": os.pathsep.join(
                    filter(None, (str(self._code / CODE), os.environ.get("PYTHONPATH")))
                ),
                "PYTHONSAFEPATH": "1",
            }
        )
        controller = [sys.executable, "-u", "-m", "jobs.survival.local_controller"]
        with (self.folder / "controller.log").open("ab") as log:
            process = subprocess.Popen(
                [*controller, str(self.folder), *self._imports],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self._lock.fd] if self._lock else [],
            )
        tasks = list(range(self._num_tasks()))
        return submitit_local.LocalJob(
            folder=self.folder, job_id=str(process.pid), process=process, tasks=tasks
        )


def submit_local(
    function: Callable[[], Any],
    folder: Path,
    num_tasks: int,
    lock: RunLock | None = None,
    code: Path | None = None,
    imports: Sequence[str] = (),
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
    """
    job = _LocalExecutor(folder, code or folder, num_tasks, lock, imports).submit(function)
    process = job._process
    assert process is not None, "submitit starts the controller at once"
    return LocalJob(folder, process.pid, process=process)
