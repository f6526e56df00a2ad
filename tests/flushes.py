"""
The system calls of one module, whose flushes a test sees, refuses or holds.

    system = Flushes()
    monkeypatch.setattr(growing_file, "os", system)
    system.names, system.refuses

A refused flush does what a system does: it throws away the pages that it could not write, says so once,
and the next flush finds nothing to do.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any


class Flushes:
    """Stands in for the `os` of one module."""

    def __init__(self) -> None:
        self.names: list[str] = []  # of files that were flushed
        self.refuses = 0  # so many times
        self.is_back = threading.Event()  # a flush waits for it
        self.is_back.set()
        self.is_waiting = threading.Event()
        self._flushed: dict[str, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self.is_waiting.set()
        assert self.is_back.wait(60), "nobody went on meanwhile"
        if self.refuses:
            self.refuses -= 1
            path.write_bytes(self._flushed.get(str(path), b""))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._flushed[str(path)] = path.read_bytes()
        self.names.append(path.name)
