"""
All that can happen to a run: what the core tells, and what its job does.

    event = event_of({"utc_seconds": 1.5, "event": "resumed", "step": 100})
    print(event)                                # Going on from step 100

A new kind is a class here, or in instruct_core/events.py where the core sees it happen, a place in
`KINDS`, and a line of docs/formats.md. What this version does not know is `Unknown`, and shown as it
is: the job's frozen code may be newer than the launcher that follows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instruct_core.converter import structure
from instruct_core.errors import CorruptFileError
from instruct_core.events import (
    Evaluated,
    Event,
    MadeRoom,
    NotRemoved,
    Saved,
    SaveFailed,
    SlowRank,
)


@dataclass(frozen=True)
class Started(Event):
    """The ranks have met, and the attempt is claimed."""

    name = "started"
    sentence = "Attempt {attempt} started: {ranks} on {device}"
    attempt: int
    job_id: str
    world_size: int
    device: str
    pids: list[int]
    hosts: list[str]
    restarts: int = 0  # Slurm's count
    products: str | None = None  # the library that multiplies, where it is not torch's usual one
    parts: int | None = None  # that the model is in, where no rank has all of it

    def __str__(self) -> str:
        ranks = "1 rank" if self.world_size == 1 else f"{self.world_size} ranks"
        parts = f", the model in {self.parts} parts" if self.parts else ""
        products = f", with products by {self.products}" if self.products else ""
        return self.sentence.format(**vars(self), ranks=ranks) + parts + products


@dataclass(frozen=True)
class Resumed(Event):
    """The state is loaded, or made; 0 is a new run."""

    name = "resumed"
    sentence = "Going on from step {step}"
    step: int

    def __str__(self) -> str:
        return super().__str__() if self.step else "Beginning at step 0"


@dataclass(frozen=True)
class Damaged(Event):
    """A checkpoint was set aside."""

    name = "damaged"
    sentence = "{message}"
    message: str


@dataclass(frozen=True)
class Foreign(Event):
    """A checkpoint that was loaded may be written by others."""

    name = "foreign"
    sentence = "Note: {message}"
    message: str


@dataclass(frozen=True)
class Changed(Event):
    """An attempt has other surroundings than the one before, see jobs/surroundings.py."""

    name = "changed"
    sentence = "Changed since the last attempt: {what}"
    what: list[str]
    may_alter_bits: list[str]  # those of them that may

    def __str__(self) -> str:
        if self.may_alter_bits:
            return f"{'; '.join(self.may_alter_bits)}, since the last attempt: this may alter bits"
        return self.sentence.format(what="; ".join(self.what))


@dataclass(frozen=True)
class ShortLead(Event):
    """Slurm's warning comes too late for a step and a save."""

    name = "short_lead"
    sentence = (
        "Slurm's warning comes {lead_seconds:.0f} s before the end, and a step and a save need "
        "{needed_seconds:.0f} s: the run will stop by itself in time"
    )
    lead_seconds: float
    needed_seconds: float


@dataclass(frozen=True)
class Warned(Event):
    """A signal was answered with a save."""

    name = "warned"
    sentence = "Step {step}: warned by {signal}, all ranks saved"
    step: int
    signal: str
    seconds: float  # from the signal to the end of the save


@dataclass(frozen=True)
class Asked(Event):
    """The run does what somebody asked of it, see jobs/control.py."""

    name = "asked"
    sentence = "Step {step}: {verb}{end}, asked for by {by}"
    step: int
    verb: str
    by: str
    steps: int | None = None  # where an extend puts the end

    def __str__(self) -> str:
        end = "" if self.steps is None else f" to {self.steps}"
        return self.sentence.format(**vars(self), end=end)


@dataclass(frozen=True)
class Requeued(Event):
    """The job comes back."""

    name = "requeued"
    sentence = "Requeued: the next attempt goes on from step {step}"
    step: int
    cause: str | None = None  # see jobs/causes.py
    remedy: str | None = None


@dataclass(frozen=True)
class Stopped(Event):
    """A person has stopped the run."""

    name = "stopped"
    sentence = "Step {step}: stopped"
    step: int
    cause: str | None = None  # see jobs/causes.py
    remedy: str | None = None


@dataclass(frozen=True)
class Paused(Event):
    """The run has given its nodes back until somebody has it go on."""

    name = "paused"
    sentence = "Step {step}: paused"
    step: int


@dataclass(frozen=True)
class Finished(Event):
    """The last step is saved."""

    name = "finished"
    sentence = "Step {step}: finished"
    step: int


@dataclass(frozen=True)
class Failed(Event):
    """An exception ended the attempt, as rank 0 saw it."""

    name = "failed"
    sentence = "Failed: {error}"
    error: str
    cause: str | None = None  # see jobs/causes.py
    remedy: str | None = None


@dataclass(frozen=True)
class Crashed(Event):
    """Ranks were killed or failed; written by whoever started them."""

    name = "crashed"
    sentence = "Crashed: {error}"
    error: str
    node: str = ""
    comes_back: bool = False
    cause: str | None = None  # see jobs/causes.py
    remedy: str | None = None


@dataclass(frozen=True)
class Unknown(Event):
    """An event of a name, or with fields, that this version does not know."""

    name = "unknown"
    kind: str
    said: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}: {', '.join(f'{key} {value}' for key, value in self.said.items())}"

    @property
    def facts(self) -> dict[str, Any]:
        """What the ledger has of it."""
        return self.said


ENDS = (Requeued, Stopped, Paused, Finished)  # an attempt's own last word, where it ends well

KINDS: dict[str, type[Event]] = {
    kind.name: kind
    for kind in (
        Started, Resumed, Damaged, Foreign, Evaluated, Saved, SaveFailed, MadeRoom, NotRemoved,
        SlowRank, Changed, ShortLead, Warned, Asked, Requeued, Stopped, Paused, Failed, Finished, Crashed,
    )
}  # fmt: skip


UNREADABLE = "unreadable"  # kind of a line that is none of ours
OF_EVERY_LINE = ("utc_seconds", "event", "spent")


def event_of(document: Mapping[str, Any]) -> Event:
    """Return the event of a line of the ledger."""
    name = str(document.get("event", ""))
    facts = {key: value for key, value in document.items() if key not in OF_EVERY_LINE}
    if name in KINDS:
        with contextlib.suppress(CorruptFileError):
            return structure(facts, KINDS[name], name)
    return Unknown(name, facts)
