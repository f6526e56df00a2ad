"""
What the core tells of a run while it trains. An event is named once, and owns its sentence.

    report(Saved(step=100, seconds=0.8))

The fields are what the ledger keeps, in this order; None is not written.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """Something that happened to a run; `str` is its sentence for a person."""

    name: ClassVar[str]
    sentence: ClassVar[str]

    def __str__(self) -> str:
        return self.sentence.format(**vars(self))

    @property
    def facts(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Evaluated(Event):
    """The validation loss was measured."""

    name = "evaluated"
    sentence = "Step {step}: validation loss {val_loss:.4f}"
    step: int
    val_loss: float


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A checkpoint was committed."""

    name = "saved"
    sentence = "Step {step}: saved in {seconds:.2f} s"
    untold = "Step {step}: saved by attempt {attempt}, which was killed before it could say so"
    attempt: int | None = None  # that saved, where a later one tells of it
    step: int
    seconds: float | None = None  # beginning to commit; None where nobody knows any more
    step_seconds: float | None = None  # median of the last steps

    def __str__(self) -> str:
        return (self.untold if self.seconds is None else self.sentence).format(**vars(self))


@dataclass(frozen=True)
class SaveFailed(Event):
    """A save failed; the next one is made with a later step."""

    name = "save_failed"
    sentence = "Step {step}: not saved: {error}. Tried again in {retry_seconds:.0f} s; {meanwhile}"
    step: int
    error: str
    retry_seconds: float
    at_end: bool | None = None  # True where no step is made meanwhile

    def __str__(self) -> str:
        meanwhile = "all ranks wait for it" if self.at_end else "training goes on"
        return self.sentence.format(**vars(self), meanwhile=meanwhile)


@dataclass(frozen=True)
class MadeRoom(Event):
    """Checkpoints went that would have stayed on a larger disk."""

    name = "made_room"
    sentence = "The disk is nearly full: older checkpoints were removed, of steps {steps}"
    steps: list[int]


@dataclass(frozen=True)
class NotRemoved(Event):
    """A checkpoint that should have gone is still there."""

    name = "not_removed"
    sentence = "An older checkpoint could not be removed: {problem}"
    problem: str


@dataclass(frozen=True)
class SlowRank(Event):
    """A rank has kept the others waiting for many steps in a row."""

    name = "slow_rank"
    sentence = (
        "Step {step}: rank {rank}{place} is slow: its own part of a step takes {seconds:.3f} s, that of "
        "the others {usual_seconds:.3f} s"
    )
    step: int
    rank: int
    seconds: float
    usual_seconds: float  # of the median rank, for as much as this one has to do
    node: str = ""
    gpu: str = ""

    def __str__(self) -> str:
        place = f" on {self.node}" if self.node else ""
        place += f" ({self.gpu})" if self.gpu else ""
        return self.sentence.format(**vars(self), place=place)
