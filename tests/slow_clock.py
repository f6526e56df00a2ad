"""A module's clock that a test has: whoever sleeps finds that the time has gone by."""

from __future__ import annotations


class Clock:
    """Stands in for the `time` of one module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
