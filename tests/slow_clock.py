"""A module's clock that a test has: whoever sleeps finds that the time has gone by."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Stands in for the `time` of one module."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for at, call in self._due[:]:
            if at <= self.now:
                self._due.remove((at, call))
                call()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something as soon as so much time has gone by."""
        self._due.append((self.now + seconds, call))
