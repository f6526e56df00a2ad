"""
Jobs on this machine, and where jobs have their folders.

    lock = RunLock(path)
    if lock.acquire(): ...
    job, ledger = find_running(path)

A job has a session of its own: closing the terminal does not end it. As long as it lives it holds a
lock on the run, so a second launcher attaches instead of starting a second writer.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from instruct_core.errors import ConfigError


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
        return self.folder / f"{self.pid}_{task}_log.out"


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
