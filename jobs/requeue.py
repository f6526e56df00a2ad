"""
Who brings a job back, when, and when not.

A warned job asks `comes_back`: a person's stop is final, any other warning is answered by going
on. A crashed job is started again by its controller as long as it makes progress; `CrashBudget`
counts.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

MAX_CRASHES_WITHOUT_PROGRESS = 3


def comes_back(received: Iterable[signal.Signals | None]) -> bool:
    """
    Return True if the local executor should start the job again.

    Args:
        received: The first warning of every rank, None for a rank that got none. TERM is how a
            person stops a local run (Ctrl-C, `kill`); USR1 and USR2 are a time limit's warning.
    """
    return signal.SIGTERM not in set(received)


class CrashBudget:
    """Counts crashes in a row that committed nothing new."""

    def __init__(self) -> None:
        self._committed = -1
        self._in_a_row = 0

    def allows_restart(self, committed: int) -> bool:
        """Note one more crash, at which ``committed`` had been reached; True to start again."""
        self._in_a_row = self._in_a_row + 1 if committed <= self._committed else 1
        self._committed = max(committed, self._committed)
        return self._in_a_row < MAX_CRASHES_WITHOUT_PROGRESS
