"""
What the kernel knows of a process, and what this one does at a signal. Source: proc(5).

    start_ticks(os.getpid()), age_seconds(os.getpid()), peak_bytes(os.getpid())
    put_back(signal.SIGTERM, before)
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def start_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks since the machine booted; -1 where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return -1
    return int(stat.rpartition(")")[2].split()[19])  # a name may have blanks and brackets


def age_seconds(pid: int) -> float:
    """Return how long ago a process began, to a hundredth; what it executes since does not matter."""
    return seconds_since(start_ticks(pid))


def seconds_since(ticks: int) -> float:
    """Return how long ago it was so many clock ticks since the machine booted."""
    begun = ticks / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - begun)


def peak_bytes(pid: int) -> int:
    """Return the most memory a process has held so far; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    # Not getrusage's maximum: a child inherits its parent's there.
    peaks = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return 1024 * max(peaks, default=0)


def put_back(signum: signal.Signals, handler: Any) -> None:
    """
    Have a signal do again what it did before.

    Args:
        signum: Which.
        handler: What `signal.signal` gave when it was replaced. None is one that a library in C had
            installed: Python cannot do that again, so the signal does what the kernel has it do.
    """
    signal.signal(signum, signal.SIG_DFL if handler is None else handler)
