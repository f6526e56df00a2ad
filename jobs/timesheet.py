"""
Where the seconds of one attempt go, on rank 0: every second since its process began has a name.

    sheet = Timesheet()
    sheet.begins("meeting")         # what came before went to "imports"
    sheet.spent()                   # {"imports": 1.9, "meeting": 0.4}

The names are those of the receipt, see docs/trust.md.
"""

from __future__ import annotations

import os
import time

from jobs.environment import number_in
from jobs.process import seconds_since, start_ticks

# What the guard is told of a phase, in the receipt's words.
PHASES = {"start": "load", "first step": "first_step", "settling": "save"}
# Clock ticks at which a controller began that has loaded all for its first tasks; see jobs/process.py.
LOADED_SINCE = "INSTRUCT_LOADED_SINCE"


class Timesheet:
    """Seconds by what they went to; their sum is the time since this process, or its loading, began."""

    def __init__(self) -> None:
        age = _age()
        self._since = time.monotonic() - age
        self._cause = "imports"
        self._seconds: dict[str, float] = {}

    def begins(self, cause: str) -> None:
        """Say what the time goes to from now on."""
        now = time.monotonic()
        self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + now - self._since
        self._cause, self._since = PHASES.get(cause, cause), now

    def waited_for_data(self, seconds: float) -> None:
        """Move seconds of a step to the time that it waited for its samples."""
        seconds = min(seconds, self._seconds.get("step", 0.0))
        if seconds:
            self._seconds["step"] -= seconds
            self._seconds["data"] = self._seconds.get("data", 0.0) + seconds

    def spent(self) -> dict[str, float]:
        """Return the seconds up to now by cause."""
        self.begins(self._cause)
        return {cause: round(seconds, 3) for cause, seconds in sorted(self._seconds.items())}


def _age() -> float:
    """Return the seconds since this process, or the loading that it shares, began, to a hundredth."""
    # Not psutil's create_time, which goes by the second in which the machine was booted.
    return seconds_since(number_in(LOADED_SINCE, 0) or start_ticks(os.getpid()))
