"""
A task of a job on this machine: a fork of its controller, with all that it imports loaded already.

    try:
        task = fork(environment, log)                 # in the controller
        task.wait()
    except InTask:
        become_task()                                 # in the task, once the controller's frames are gone
        ...

Python, torch and what they import take seconds of processor time to load; all tasks of a job, and all its
later starts, share one loading of it. For the rest a task is as if it had been executed: its own output,
no open files of the controller's, no signal handler. Nothing that is loaded may start threads or CUDA.

Sources: prctl(2); pidfd_open(2); pidfd_send_signal(2).
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import suppress

from jobs.survival.stop_signal import WARNINGS

PR_SET_PDEATHSIG = 1


class InTask(BaseException):
    """This process is a task now: what the controller was doing is none of its business."""


class Task:
    """A child of this process, as long as nobody else waits for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)  # can be read once it has ended; closed when that was seen
        self.returncode: int | None = None  # negative: the signal that killed it

    def poll(self) -> int | None:
        """Return how it ended; None if it has not."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Wait until it has ended, and return how."""
        code = self._reap(0)
        assert code is not None, "only waitpid with WNOHANG returns early"
        return code

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self.fd)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal; nothing happens to one that has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # nobody has waited for it yet
                signal.pidfd_send_signal(self.fd, signum)


def fork(environment: Mapping[str, str], log: int) -> Task:
    """
    Fork a task.

    Args:
        environment: What is added to this process's own.
        log: Descriptor of the file that takes its output and its errors, as on Slurm.

    Raises:
        InTask: In the task.
    """
    # A signal in between would run the controller's handler in the task.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return Task(pid)
    end_with_parent()  # an orphan would be a second writer
    for signum in WARNINGS:
        signal.signal(signum, signal.SIG_DFL)
    os.environ.update(environment)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise InTask


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it dies, however that does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def become_task() -> None:
    """Let go of what the controller has open, its lock above all, and of its logging."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
