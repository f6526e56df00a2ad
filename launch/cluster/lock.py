"""
The right to write a run on this machine.

    lock = RunLock(path)
    if lock.acquire(): ...
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path


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

    def name_job(self, pid: int, folder: Path, ledger: str) -> None:
        """Say which job holds the lock, and where its ledger is."""
        entry = {"pid": pid, "folder": str(folder), "ledger": ledger}
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
