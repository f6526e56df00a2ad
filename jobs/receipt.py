"""
Where a run's hours went: every second from its first submission on, by cause.

    receipt = receipt_of(entries, submitted_at=[1_760_000_000.0], now=None)
    receipt.wall_seconds, receipt.goodput, receipt.seconds["queued"]

An attempt's own seconds stand in its ledger, up to each event. What it did after the last save that
the next attempt went on from is made again, whatever it was; what lies between two attempts was spent
in the queue, or nobody wanted the run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from instruct_core.events import Event, Saved
from instruct_core.storage.store import Store
from jobs.events import ENDS, UNREADABLE, Crashed, Failed, Requeued, Resumed, Unknown
from jobs.ledger import Entry, read_ledger

# What each name means, in the order in which they are shown.
CAUSES = {
    "step": "steps that were kept",
    "data": "steps waited for their samples",
    "first_step": "first steps, with all that is compiled",
    "evaluation": "validation loss and sample answers",
    "save": "training waited for saves",
    "unsaved": "since the last save, now",
    "redone": "made again: lost with an attempt that crashed, or spent in a hang",
    "imports": "Python and its imports, up to the ranks' meeting",
    "meeting": "until all ranks had met",
    "load": "data and checkpoint loaded",
    "ending": "deciding who comes back, after the last save",
    "queued": "in Slurm's queue, or between two starts",
    "stopped": "stopped, until somebody gave the command again",
    "unknown": "of which nobody has told",
}
UNSEEN_SECONDS, UNSEEN_SHARE = 0.05, 0.01  # of a time, by which what is told of it may fall short


class Loss(NamedTuple):
    """What one attempt lost."""

    attempt: int
    seconds: float
    node: str  # that was blamed; "" for none
    error: str


class Receipt(NamedTuple):
    """Where a run's seconds went."""

    seconds: dict[str, float]  # by cause; without those that are zero
    losses: list[Loss]

    @property
    def wall_seconds(self) -> float:
        """From the first submission to the end, or to now."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The share of the time that went to steps that were kept, 0..1."""
        return self.seconds.get("step", 0.0) / self.wall_seconds if self.wall_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "wall_seconds": round(self.wall_seconds, 3),
            "goodput": round(self.goodput, 4),
            "seconds": {cause: round(seconds, 3) for cause, seconds in self.seconds.items()},
            "lost": [loss._asdict() for loss in self.losses],
        }


def receipt_of(
    entries: Sequence[Entry], submitted_at: Sequence[float], now: float | None
) -> Receipt:
    """
    Return a run's receipt.

    Args:
        entries: Its ledger.
        submitted_at: When it was submitted, UTC seconds, oldest first.
        now: UTC seconds while it goes on; None where it has ended.
    """
    losses = []
    attempts = _attempts(entries)
    begun_at = submitted_at[0] if submitted_at else attempts[0].begun_at if attempts else now or 0.0
    line = _Timeline(begun_at, submitted_at)
    for number, attempt in enumerate(attempts):
        following = attempts[number + 1] if number + 1 < len(attempts) else None
        line.wait(attempt.begun_at)
        kept = attempt.kept_up_to(_resumed_at(attempts[number + 1 :]))
        if kept is not None:
            line.share(kept.spent, kept.utc_seconds)
        goes_on = following is None and now is not None
        end = now if goes_on and now is not None else attempt.ended_at(following, submitted_at)
        if kept is not None and kept is attempt.own_end:
            comes = isinstance(kept.event, Requeued) or any(line.at < s for s in submitted_at)
            if following is None and comes:
                line.wait(end)
            else:
                line.spend("ending", end)
        elif goes_on:
            line.spend("unsaved", end)
        elif rest := line.spend("redone", end):
            losses.append(attempt.loss(rest))
    if not attempts and now is not None:
        line.spend("queued", now)
    ordered = {cause: line.spent[cause] for cause in CAUSES if line.spent[cause] > 0}
    others = {c: s for c, s in sorted(line.spent.items()) if c not in CAUSES and s > 0}
    return Receipt(ordered | others, losses)


class _Timeline:
    """
    The time from a run's first submission on: what is named is what lies behind, no second twice.

    Args:
        begun_at: UTC seconds.
        submitted_at: As `receipt_of`.
    """

    def __init__(self, begun_at: float, submitted_at: Sequence[float]) -> None:
        self.at = begun_at
        self.spent: dict[str, float] = defaultdict(float)
        self._submitted_at = submitted_at

    def spend(self, cause: str, until: float) -> float:
        """Give what lies up to a moment to a cause; return how many seconds that are."""
        seconds = max(0.0, until - self.at)
        self.spent[cause] += seconds
        self.at += seconds
        return seconds

    def wait(self, until: float) -> None:
        """Name what lies between two attempts: nobody wanted the run, then it was in the queue."""
        again = next((at for at in self._submitted_at if self.at < at <= until), None)
        if again is not None:
            self.spend("stopped", again)
        self.spend("queued", until)

    def share(self, told: Mapping[str, float], until: float) -> None:
        """Name what lies up to a moment as an attempt has told of itself, by a clock of its own."""
        span, told_seconds = max(0.0, until - self.at), sum(told.values())
        # A clock may have been set meanwhile, or the time before is that of another host's.
        is_whole = bool(told) and told_seconds > span - max(UNSEEN_SECONDS, UNSEEN_SHARE * span)
        scale = span / told_seconds if is_whole and told_seconds else 1.0
        for cause, seconds in told.items():
            self.spend(cause, self.at + seconds * scale)
        if is_whole:
            self.at = max(self.at, until)  # but for the last digits
        else:
            self.spend("unknown", until)


def by_attempt(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    """Return the lines of each attempt, the attempts in order."""
    lines: dict[int, list[Entry]] = {}
    for entry in entries:
        lines.setdefault(entry.attempt, []).append(entry)
    return dict(sorted(lines.items()))


class _Attempt(NamedTuple):
    """The lines of one attempt's ledger."""

    entries: list[Entry]

    @property
    def begun_at(self) -> float:
        """When its first process began."""
        first = self.entries[0]
        return first.utc_seconds - sum(first.spent.values())

    @property
    def own_end(self) -> Entry | None:
        """Its own last word, if it ended as it should."""
        ends = [e for e in self.entries if isinstance(e.event, ENDS)]
        return ends[-1] if ends else None

    def kept_up_to(self, resumed_at: int | None) -> Entry | None:
        """Return the line up to which its work counts, given the step that the next one began at."""
        end = self.own_end
        if end is not None and resumed_at in (None, end.event.facts["step"]):
            return end
        saves = [entry for entry in self.entries if isinstance(entry.event, Saved)]
        kept = [e for e in saves if resumed_at is None or e.event.facts["step"] <= resumed_at]
        return kept[-1] if kept else None

    def ended_at(self, following: _Attempt | None, submitted_at: Sequence[float]) -> float:
        """
        Return when it ended.

        One that nobody saw end did when somebody submitted the run again, or else when the next began.
        """
        last_word = max(entry.utc_seconds for entry in self.entries)
        if following is None:
            return last_word
        if any(isinstance(entry.event, (Crashed, Failed, *ENDS)) for entry in self.entries):
            return min(last_word, following.begun_at)
        again = (at for at in submitted_at if last_word < at < following.begun_at)
        return next(again, following.begun_at)

    def loss(self, seconds: float) -> Loss:
        """Return what it lost, and why if somebody saw it."""
        crashes = [entry.event for entry in self.entries if isinstance(entry.event, Crashed)]
        node, error = (crashes[-1].node, crashes[-1].error) if crashes else ("", "")
        return Loss(self.entries[0].attempt, round(seconds, 3), node, error)


def _resumed_at(attempts: Sequence[_Attempt]) -> int | None:
    """Return the step that the first of these went on from which came so far; None where none did."""
    events = [entry.event for attempt in attempts for entry in attempt.entries]
    return next((event.step for event in events if isinstance(event, Resumed)), None)


def _attempts(entries: Sequence[Entry]) -> list[_Attempt]:
    """Return the attempts, each with the lines that it wrote itself, in the order of their beginnings."""
    # What the next attempt wrote for one that was killed has another clock, and no sheet of its own.
    # A line that nobody can read has no time.
    own = [e for e in entries if not (isinstance(e.event, Saved) and e.event.seconds is None)]
    own = [e for e in own if not (isinstance(e.event, Unknown) and e.event.kind == UNREADABLE)]
    return [_Attempt(lines) for lines in by_attempt(own).values()]


def submissions(job_parent: Path) -> list[float]:
    """Return when a run was submitted, UTC seconds, oldest first: each has a copy of the code."""
    copies = [folder / "code" for folder in sorted(job_parent.glob("[0-9]*"))]
    return [copy.stat().st_mtime for copy in copies if copy.exists()]


class RunningReceipt:
    """
    The receipt of a run up to now, as its newest attempt knows it, for curves.

    Args:
        store: Of the ledger.
        attempt: Which is the newest one.
        job_parent: Where the run's jobs have their folders.
    """

    def __init__(self, store: Store, attempt: int, job_parent: Path) -> None:
        self._store, self._attempt, self._job_parent = store, attempt, job_parent
        self._mine: list[Entry] = []
        self._before: tuple[list[Entry], list[float]] | None = None

    def note(self, event: Event, spent: dict[str, float]) -> None:
        """Take an event of now, and where the attempt's seconds went up to it."""
        self._mine.append(Entry(self._attempt, time.time(), event, spent))

    def values(self) -> dict[str, float]:
        """
        Return seconds by cause and the goodput, by TensorBoard's names.

        Raises:
            OSError: The ledger cannot be read; it is once.
        """
        if self._before is None:
            earlier = [e for e in read_ledger(self._store) if e.attempt != self._attempt]
            self._before = earlier, submissions(self._job_parent)
        entries, submitted_at = self._before
        receipt = receipt_of([*entries, *self._mine], submitted_at, now=None)
        seconds = {f"receipt/{cause}_seconds": s for cause, s in receipt.seconds.items()}
        return {"receipt/goodput": receipt.goodput} | seconds
