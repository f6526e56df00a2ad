"""
The right to write a run on this machine, or to fill a folder with parts.

    lock = RunLock(path)
    if lock.acquire(): ...

A network disk shares the lock between machines, and there are disks without locks. So its file also
says who holds it: the process, by host, number and time of its start, because numbers are used again
and another host has others. Where there are no locks, that word is all there is.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from instruct_core.storage.disk import NO_LOCKS
from instruct_core.storage.json_text import loose_json
from instruct_core.storage.looks import is_there
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.plain_file import bytes_of, open_plain
from jobs.process import start_ticks


class Holder(NamedTuple):
    """A process, told from all others."""

    pid: int
    host: str
    started: int  # clock ticks since its host booted; -1 where nobody knows

    @classmethod
    def of(cls, pid: int) -> Holder:
        """Return a process of this host."""
        return cls(pid, socket.gethostname(), start_ticks(pid))

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this host that lives."""
        return self.is_on_this_host and self.started == start_ticks(self.pid) != -1

    @property
    def where(self) -> str:
        """Its host, as the end of a sentence; "" for this one."""
        return "" if self.is_on_this_host else f" on {self.host}"

    @property
    def is_on_this_host(self) -> bool:
        """Whether it is or was a process of this host."""
        return self.host == socket.gethostname()


class RunLock:
    """
    The right to write a run, held by whoever has its file open; freed by the kernel on death.

    The file says who holds it: a controller inherits the open file and with it the lock.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, on_a_disk(path, lambda: _opened(path))
        self._claims_by_word = False

    def acquire(self) -> bool:
        """Take the lock; False if a controller holds it."""
        return on_a_disk(self._path, self._acquire)

    def _acquire(self) -> bool:
        self._file.close()  # it may be this very file that cannot be used any more
        self._file = _opened(self._path)
        got = _flock(self._file, fcntl.LOCK_EX)
        ours = self._claims_by_word  # since a try before
        if got is False or (got is None and not ours and _is_held_by_word(self._path)):
            return False
        self._file.truncate(0)  # what it says is of an earlier holder
        if got is None:
            self._claims_by_word = True
            self._note(Holder.of(os.getpid()))
        return True

    def name_job(self, pid: int, folder: Path, ledger: str) -> None:
        """Say which job holds the lock, and where its ledger is."""
        holder = Holder.of(pid)
        on_a_disk(self._path, lambda: self._note(holder, folder=str(folder), ledger=ledger))
        self._claims_by_word = False

    def name_task(self, pid: int) -> None:
        """Say that a process has inherited it: without locks, nobody else sees that it is held on."""
        if self._claims_by_word:
            line = json.dumps(Holder.of(pid)._asdict()) + "\n"
            on_a_disk(self._path, lambda: self._write(line))

    def name_work(self, verb: str) -> None:
        """Say what is being done to what it locks, where that is no job: `removed`."""
        holder = Holder.of(os.getpid())
        with suppress(OSError):  # of a full disk, where the lock holds all the same
            on_a_disk(self._path, lambda: self._note(holder, verb=verb))

    def _note(self, holder: Holder, **facts: str) -> None:
        self._file.truncate(0)  # also of what a try before has written
        self._write(json.dumps(holder._asdict() | facts) + "\n")

    def _write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    @property
    def fd(self) -> int:
        """Descriptor that a controller inherits."""
        return self._file.fileno()

    @staticmethod
    def is_held(path: Path) -> bool:
        """Return True if somebody holds the lock, or nobody can tell; creates nothing."""
        return on_a_disk(path, lambda: _is_held(path))

    @staticmethod
    def works(path: Path) -> bool:
        """Return True if the disk of a lock has locks, so that its end is seen from every host."""
        return on_a_disk(path, lambda: _shared(path)) is not None

    def close(self) -> None:
        """Let go; a controller that inherited the file keeps the lock."""
        if self._claims_by_word:
            on_a_disk(self._path, lambda: self._file.truncate(0))
        self._file.close()


def holder_of(path: Path) -> Holder | None:
    """Return who holds a lock, or did last; None where its file names nobody."""
    return next(_holders_of(path), None)


def _holders_of(path: Path) -> Iterator[Holder]:
    """Yield all that a lock's file names: who took it, and who has inherited it since."""
    for line in bytes_of(path).splitlines():
        with suppress(ValueError, KeyError, TypeError):
            yield holder_in(loose_json(line))


def word_of(path: Path) -> dict[str, Any]:
    """Return what a lock's file says; {} where that is half written, or damaged."""
    data = on_a_disk(path, lambda: bytes_of(path))
    try:
        entry = loose_json(data) if data.endswith(b"\n") else {}
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def holder_in(entry: dict[str, Any]) -> Holder:
    """Return who holds a lock, from the line in its file; older lines name no host."""
    return Holder(int(entry["pid"]), entry.get("host", "an unknown host"), entry.get("started", -1))


def _opened(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    return os.fdopen(open_plain(path, flags), "a+", encoding="utf-8")


def _is_held(path: Path) -> bool:
    if not is_there(path):
        return False
    try:
        got = _shared(path)
    except FileNotFoundError:  # its run was removed, or renamed, just now
        return False
    return _is_held_by_word(path) if got is None else not got


def _shared(path: Path) -> bool | None:
    with os.fdopen(open_plain(path), encoding="utf-8") as file:
        return _flock(file, fcntl.LOCK_SH)


def _flock(file: IO[str], kind: int) -> bool | None:
    """Try to lock; None where the disk has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _is_held_by_word(path: Path) -> bool:
    """Return True if a process that the file names lives, or may: nobody sees those of other hosts."""
    return any(holder.is_here or not holder.is_on_this_host for holder in _holders_of(path))
