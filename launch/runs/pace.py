"""
What a run would lose if it were killed now, and how long it takes to its end.

    if (unsaved := unsaved_of(status)) is not None:
        print(unsaved.steps)
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from instruct_core.events import Saved
from jobs.events import Resumed
from launch.runs.status import RunStatus


class Unsaved(NamedTuple):
    """What is not in a checkpoint."""

    steps: int
    seconds: float


LONGEST = 1e12  # seconds; beyond it no number means anything


class Left(NamedTuple):
    """What is to come, if nothing disturbs it."""

    seconds: float
    starts: int | None  # of jobs, at the time limit that was asked for; None where there is none


def unsaved_of(status: RunStatus) -> Unsaved | None:
    """Return what a kill would lose now; None while the run does not train."""
    if not (status.is_here or any(record.is_running for record in status.records())):
        return None
    newest = [e for e in status.entries if e.attempt == status.entries[-1].attempt]
    marks = [entry for entry in newest if isinstance(entry.event, Saved | Resumed)]
    if not marks:  # it is still loading
        return None
    steps = (status.progress().global_step or 0) - marks[-1].event.facts["step"]
    return Unsaved(max(0, steps), max(0.0, time.time() - marks[-1].utc_seconds))


def left_of(status: RunStatus) -> Left | None:
    """Return how long its steps to the end take, at the pace of the newest; None if nobody knows."""
    speed, config = status.progress().tokens_per_second, status.run.config
    steps = config.max_steps - status.reached_step()
    if not speed or not speed > 0 or steps <= 0:  # or no number
        return None
    seconds = steps * config.tokens_per_step / speed
    minutes = status.run.asked["slurm"].get("time")
    starts = None
    if status.slurm is not None and isinstance(minutes, int) and minutes > 0 and seconds < LONGEST:
        starts = math.ceil(seconds / (60 * minutes))
    return Left(seconds, starts)
