"""
One piece of work at a time in a thread of its own: what a save does while training goes on.

    background.start(lambda: checkpoints.write(snapshot, keep))
    if background.done: result = background.result()

The thread is told to take only what processor time the training leaves (nice): on a machine whose
cores are all busy a save then lasts longer and slows no step; where somebody waits for it, nothing
else runs and it is as fast as ever. It is a daemon: a rank that fails must end, and not wait for
ranks that wait for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

NICENESS = 19


class Background(Generic[T]):
    """Runs at most one call in another thread."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self.ended_at = 0.0  # time.monotonic() at the end of the last call

    @property
    def busy(self) -> bool:
        """Return True from `start` until `result` was asked for."""
        return self._thread is not None

    @property
    def done(self) -> bool:
        """Return True when there is a result to ask for."""
        return self._thread is not None and not self._thread.is_alive()

    def start(self, work: Callable[[], T]) -> None:
        """Begin a call; the one before must have been asked for its result."""
        assert self._thread is None, "one save at a time"
        self._value = self._error = None

        def run() -> None:
            try:
                with contextlib.suppress(OSError):  # a sandbox may refuse it
                    thread = threading.get_native_id()
                    os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
                self._value = work()
            except BaseException as error:  # raised where the result is asked for
                self._error = error
            self.ended_at = time.monotonic()

        self._thread = threading.Thread(target=run, name="save", daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for the call, and return or raise what it came to."""
        assert self._thread is not None, "nothing was started"
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # T may be None
