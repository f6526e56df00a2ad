"""
Where jobs run. The only file that knows submitit's executors.

    job = submit_local(FinetuneJob(...), folder, num_tasks=4, lock=lock)
    job.is_running()

Without Slurm a job runs on this machine, through submitit's LocalExecutor and our controller (see
jobs/local_controller.py). It has a session of its own: closing the terminal does not end it. As
long as it lives it holds a lock on the run, so a second launcher attaches instead of starting a
second writer.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.local.local import LocalJob

from instruct_core.errors import ConfigError
from launch.console import Cluster, say

# submitit counts warnings as time-outs and gives up after so many; our own rules decide instead.
UNLIMITED = 10**6


@dataclass
class LocalRun:
    """A job on this machine, started here or found running."""

    folder: Path
    pid: int
    process: subprocess.Popen[bytes] | None = None
    lock: Path | None = None  # of one found running: nobody else tells when it ends

    def is_running(self) -> bool:
        """Return True as long as the controller lives."""
        if self.process is not None:
            return self.process.poll() is None
        return self.lock is not None and RunLock.is_held(self.lock)

    def exit_code(self) -> int:
        """Return how the controller ended; 0 where somebody else is its parent."""
        return self.process.wait() if self.process is not None else 0

    def warn(self, signum: signal.Signals) -> None:
        """Pass a signal to the controller, which passes it to all tasks."""
        if self.is_running():
            os.kill(self.pid, signum)

    def log_path(self, task: int = 0) -> Path:
        """Return where a task writes what it logs."""
        return self.folder / f"{self.pid}_{task}_log.err"


class RunLock:
    """
    The right to write a run, held by whoever has its file open; freed by the kernel on death.

    The file says who holds it: a controller inherits the open file and with it the lock.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")

    def acquire(self) -> bool:
        """Take the lock; False if a controller holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._file.truncate(0)  # what it says is of an earlier holder
        return True

    def note(self, job: LocalRun, ledger: str) -> None:
        """Say which job holds the lock, and where its ledger is."""
        entry = {"pid": job.pid, "folder": str(job.folder), "ledger": ledger}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    @property
    def fd(self) -> int:
        """Descriptor that a controller inherits."""
        return self._file.fileno()

    @staticmethod
    def is_held(path: Path) -> bool:
        """Return True if somebody holds the lock; creates nothing."""
        if not path.exists():
            return False
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def close(self) -> None:
        """Let go; a controller that inherited the file keeps the lock."""
        self._file.close()


class _Executor(submitit.LocalExecutor):  # type: ignore[misc]  # submitit is not typed
    """submitit's local executor, with our controller in place of its own."""

    def __init__(self, folder: Path, num_tasks: int, lock: RunLock | None) -> None:
        super().__init__(folder, max_num_timeout=UNLIMITED)
        self.update_parameters(tasks_per_node=num_tasks, timeout_min=UNLIMITED)
        self._lock = lock

    def _submit_command(self, command: str) -> LocalJob[Any]:
        env = os.environ | {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_NTASKS": str(self._num_tasks()),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_PREEMPT_SIGNAL": "USR2",  # whose handler StopSignal hands over to
            "GLOO_SOCKET_IFNAME": "lo",  # ranks of one machine; its host name may resolve to nothing
        }
        with (self.folder / "controller.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobs.local_controller", str(self.folder)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self._lock.fd] if self._lock else [],
            )
        tasks = list(range(self._num_tasks()))
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=tasks)


def submit_local(
    function: Callable[[], Any], folder: Path, num_tasks: int, lock: RunLock | None = None
) -> LocalRun:
    """Start a job of ``num_tasks`` processes in a fresh folder, and return it."""
    job = _Executor(folder, num_tasks, lock).submit(function)
    process = job._process
    assert process is not None, "submitit starts the controller at once"
    return LocalRun(folder, process.pid, process)


def new_job_folder(parent: Path) -> Path:
    """Create and return the next numbered folder below ``parent``; nothing stale is in it."""
    parent.mkdir(parents=True, exist_ok=True)
    number = len(job_folders(parent))
    while True:
        folder = parent / f"{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def job_folders(parent: Path) -> list[Path]:
    """Return the numbered job folders below ``parent``, oldest first."""
    return sorted(path for path in parent.glob("[0-9]*") if path.is_dir())


def find_running(lock: Path) -> tuple[LocalRun, str] | None:
    """
    Return the job that holds a lock, and the place of its ledger; None if nobody holds it.

    Raises:
        ConfigError: A launcher has just taken it, and has not said for which job.
    """
    if not RunLock.is_held(lock):
        return None
    text = lock.read_text()
    if not text.endswith("\n"):
        raise ConfigError(
            f"Run {lock.parent.name} is being started by another launcher. Try again in a second."
        )
    entry = json.loads(text)
    return LocalRun(Path(entry["folder"]), entry["pid"], lock=lock), entry["ledger"]


def choose_cluster(asked: Cluster) -> None:
    """Say where the job will run, in one line."""
    if asked == "local":
        return
    reason = "no sbatch on this machine"
    if shutil.which("sbatch"):
        reason = "sbatch is here, but this version runs jobs on the local machine only"
    say(f"Cluster: local executor ({reason})")


def require_one_node(nodes: int) -> None:
    """Refuse more nodes than this machine."""
    if nodes != 1:
        raise ConfigError(
            f"--nodes must be 1 on the local executor, got {nodes}. Use --nodes 1 and more --gpus."
        )


def num_gpus() -> int:
    """Return how many NVIDIA GPUs a job here would see; asks the driver, not torch."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = [name for name in (visible or "").split(",") if name.strip() not in ("", "-1")]
    return count if visible is None else min(count, len(listed))


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
