"""
The attempts of a run, one after the other, as its ledger tells them.

    for attempt in attempts_of(status.entries, status.steps_reached(), status.is_active()):
        print(attempt.from_step, attempt.end)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from instruct_core.events import Event
from jobs.causes import CANCELLED, LIMIT, PAUSED, Cause, cause_of_text
from jobs.events import ENDS, Crashed, Failed, Requeued, Resumed, Started, Stopped
from jobs.ledger import Entry
from jobs.receipt import by_attempt

LOST = "lost without a word"


class Attempt(NamedTuple):
    """One attempt; what is None nobody has told."""

    attempt: int
    started_at: float  # UTC seconds
    job_id: str
    from_step: int | None
    to_step: int | None  # the last one that anybody told of, saved or not
    end: str  # "" while it goes on
    ended_at: float | None  # UTC seconds of its last word; None while it goes on
    steps_lost: int | None  # made again by the next one; None where there is none, or nobody told
    cause: str = ""  # class of the end; "" while it goes on
    remedy: str = ""  # what to do about it


def attempts_of(
    entries: Sequence[Entry], reached: Mapping[int, int], goes_on: bool
) -> list[Attempt]:
    """
    Return the attempts of a ledger, oldest first.

    Args:
        entries: Of the ledger.
        reached: Last step of each attempt that told of its progress.
        goes_on: Whether the newest one has not ended.
    """
    lines = by_attempt(entries)
    attempts = [
        _attempt(number, mine, reached.get(number), goes_on and number == max(lines))
        for number, mine in lines.items()
    ]
    # One that never came to its first step lost nothing of its own.
    resumed = [a.from_step for a in attempts[1:]] + [None] * bool(attempts)
    return [
        attempt._replace(steps_lost=max(0, attempt.to_step - step))
        if step is not None and attempt.to_step is not None
        else attempt
        for attempt, step in zip(attempts, resumed, strict=True)
    ]


def _attempt(number: int, entries: Sequence[Entry], reached: int | None, goes_on: bool) -> Attempt:
    events = [entry.event for entry in entries]
    steps = [step for event in events if isinstance(step := event.facts.get("step"), int)]
    steps += [] if reached is None else [reached]
    end = _end_of(events) or ("" if goes_on else LOST)
    cause = _cause_of(events, end)
    return Attempt(
        attempt=number,
        started_at=entries[0].utc_seconds,
        job_id=next((event.job_id for event in events if isinstance(event, Started)), ""),
        from_step=next((event.step for event in events if isinstance(event, Resumed)), None),
        to_step=max(steps, default=None),
        end=end,
        ended_at=None if goes_on else entries[-1].utc_seconds,
        steps_lost=None,
        cause=cause.name,
        remedy=cause.remedy,
    )


def _end_of(events: Sequence[Event]) -> str:
    """Return how an attempt ended; the next one may have told of its last save since."""
    for event in reversed(events):
        if isinstance(event, Crashed | Failed):
            return f"{event.name}: {event.error}"
        if isinstance(event, ENDS):
            return event.name
    return ""


def _cause_of(events: Sequence[Event], end: str) -> Cause:
    """Return the class of an end: as the ledger has it, or as the words of an older one say."""
    for event in reversed(events):
        if isinstance(event, Crashed | Failed | Requeued | Stopped) and event.cause is not None:
            return Cause(event.cause, event.remedy or "")
    known = {"": Cause("", ""), "finished": Cause("finished", ""), "paused": PAUSED}
    known |= {"requeued": LIMIT, "stopped": CANCELLED}
    return known.get(end) or cause_of_text(end)
