"""
What became of a drill: what each fault cost, and whether the promises were kept.

    verdict = judge(faults, hits, entries, save_every, difference, num_samples)
    verdict.problems            # [] where all was as promised; the first sentence says it best

Equal bits are not all of it: a run that starts over after each fault ends with the same bits too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jobs.drill import SUSPENDED_SECONDS, Fault, Hit
from jobs.events import Damaged, Resumed
from jobs.ledger import Entry
from jobs.receipt import Receipt
from launch.drills.comparison import Difference

SCHEMA = 1  # of the JSON


class Recovery(NamedTuple):
    """What a fault cost."""

    fault: Fault
    hit: Hit | None  # None where it never came
    steps_lost: int
    seconds: float  # from the fault to where the next attempt goes on

    def to_json(self) -> dict[str, Any]:
        """Return it as the JSON has it."""
        return {
            "kind": self.fault.kind,
            "step": self.fault.step,
            "rank": self.fault.rank,
            "came": self.hit is not None,
            "steps_lost": self.steps_lost,
            "seconds_to_come_back": self.seconds,
        }


class Verdict(NamedTuple):
    """How a drill ended."""

    recoveries: list[Recovery]
    difference: Difference | None
    problems: list[str]
    num_steps: int
    num_samples: int
    receipt: Receipt | None = None  # of the run that was hit

    @property
    def is_equal(self) -> bool:
        """Return True if not a bit differs, and all else was as promised."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the whole as one document."""
        return {
            "schema": SCHEMA,
            "equal": self.is_equal,
            "steps": self.num_steps,
            "samples": self.num_samples,
            "faults": [recovery.to_json() for recovery in self.recoveries],
            "difference": None if self.difference is None else self.difference._asdict(),
            "problems": self.problems,
            "receipt": None if self.receipt is None else self.receipt.to_json(),
        }


def judge(
    faults: Sequence[Fault],
    hits: Sequence[Hit | None],
    entries: Sequence[Entry],
    save_every: int,
    difference: Difference | None,
) -> tuple[list[Recovery], list[str]]:
    """
    Return what each fault cost, and all that was not as promised.

    Args:
        faults: That were asked for.
        hits: When each came.
        entries: The ledger of the run that was hit.
        save_every: Steps between its saves.
        difference: Where it ended otherwise than the undisturbed run.
    """
    recoveries = [_recovery(*pair, entries) for pair in zip(faults, hits, strict=True)]
    problems = [] if difference is None else [f"not equal: {difference}"]
    for fault, hit, lost, _ in recoveries:
        allowed = _steps_that_may_be_lost(fault, save_every)
        if hit is None:
            problems.append(f"{fault} never came")
        elif lost > allowed:
            problems.append(f"{fault} lost {lost} steps, {allowed} at most were promised")
    problems += [str(entry.event) for entry in entries if isinstance(entry.event, Damaged)]
    return recoveries, problems


def _recovery(fault: Fault, hit: Hit | None, entries: Sequence[Entry]) -> Recovery:
    if hit is None:
        return Recovery(fault, None, 0, 0.0)
    for entry in entries:
        if entry.attempt > hit.attempt and isinstance(entry.event, Resumed):
            if entry.event.step > hit.step:
                break  # the attempt went on, and something else ended it
            seconds = round(entry.utc_seconds - hit.utc_seconds, 1)
            return Recovery(fault, hit, hit.step - entry.event.step, seconds)
    return Recovery(fault, hit, 0, float(SUSPENDED_SECONDS))


def _steps_that_may_be_lost(fault: Fault, save_every: int) -> int:
    """
    Return what the promises allow: all up to the last save, which may still have been written.

    A hit counts the step that is under way, as one that comes just before the second save is due does.
    """
    if fault.kind in (
        "kill",
        "save",
        "requeue",
    ):  # a requeue's warning may come too late for a save
        return 2 * save_every
    return 0
