"""
What a shared disk does to those who use it: which operations go wrong, when, how, for how long.

    will = Will()
    will.plan([Fault("EIO", operations=("read",), after=20, seconds=0.5)])
    with will.asked("read", "/runs/a"):  # raises OSError when its time has come, or waits, or passes
        ...                             # the operation; it is not reached where it is refused
    will.counts()                       # {"EIO": {"faults": 1, "refused": 7}}

Faults follow one another: the next one begins to count operations when the one before is over. So a
list of them that was drawn from a seed meets a program at moments that do not depend on its speed.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

Kind = Literal["EIO", "ESTALE", "EDQUOT", "EBUSY", "hang", "lost"]
KINDS: tuple[Kind, ...] = ("EIO", "ESTALE", "EDQUOT", "hang", "lost")
READ = ("read",)
WRITE = ("write", "create")
NAMES = ("create", "change")
ALL = ("read", "write", "create", "look", "change")
# A quota is met where something is added, and nowhere else.
OPERATIONS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "EIO": (READ, WRITE, ("look",), ("change",), ALL),
    "ESTALE": (READ, WRITE, ("look",), ("change",), ALL),
    "EDQUOT": (WRITE,),
    "hang": (ALL,),
    # Whether something was read matters to nobody.
    "lost": (("create",), ("change",), NAMES, ("write", *NAMES)),
}
# All of the disk, or the servers that hold what is large, or what is small.
PLACES = ("*", "*.safetensors", "*.json")
# A launcher tells a person who has no room for it; what a job writes can be made room for.
OF_JOBS = ("*.safetensors", "*.json", "*.jsonl")
PATIENCE = 500  # operations: a disk of Python does some hundreds a second


@dataclass(frozen=True)
class Fault:
    """
    One thing that goes wrong for a while.

    Args:
        kind: The error that is answered; "hang" for no answer until it is over; "lost" for EIO
            though it was done.
        operations: Which go wrong: "read" and "write" of content, "create", "look" (what is there),
            "change" (names and attributes).
        paths: Which files, as a pattern from the root of the disk on.
        after: So many operations of any kind pass first.
        skips: So many that it could refuse pass as well.
        times: So many are refused; 0 for no such limit.
        seconds: It is over so long after the first one.

    Where nobody asks for such an operation for long, it does not happen.
    """

    kind: Kind
    operations: tuple[str, ...] = ALL
    paths: str = "*"
    after: int = 0
    skips: int = 0
    times: int = 0
    seconds: float = 0.0

    def concerns(self, operation: str, path: str) -> bool:
        return operation in self.operations and fnmatch(path, self.paths)


def drawn(
    seed: int,
    count: int,
    kinds: Sequence[Kind] = KINDS,
    apart: int = 100,
    seconds: float = 0.3,
    quota_of: Sequence[str] = PLACES,
) -> list[Fault]:
    """
    Return so many faults, the kinds in turn, at random moments and places.

    Args:
        seed: Of all that is drawn.
        count: Of faults.
        kinds: That there are.
        apart: At most so many operations pass between two of them.
        seconds: At most so long each.
        quota_of: Which files a quota may be spent for.
    """
    draw = random.Random(seed)
    return [
        Fault(
            kind := kinds[number % len(kinds)],
            draw.choice(OPERATIONS[kind]),
            draw.choice(quota_of if kind == "EDQUOT" else PLACES),
            after=draw.randrange(apart),
            seconds=draw.uniform(seconds / 10, seconds),
        )
        for number in range(count)
    ]


class Will:
    """Decides for every operation of a disk whether it goes wrong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._begin([])

    def plan(self, faults: Sequence[Fault]) -> None:
        """Have these happen, one after the other, after those that are planned already."""
        with self._lock:
            self._faults += faults

    def heal(self) -> None:
        """Forget what is planned; what hangs goes on."""
        with self._lock:
            self._begin([])

    @property
    def num_planned(self) -> int:
        """How many are still to come, or going on."""
        return len(self._faults)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return by kind how many faults there were, and how many operations they refused or held."""
        with self._lock:
            return {kind: dict(counts) for kind, counts in self._counts.items()}

    def note(self, kind: str, what: str) -> None:
        """Count something that happened."""
        with self._lock:
            self._counts.setdefault(kind, Counter())[what] += 1

    @contextmanager
    def asked(self, operation: str, path: str) -> Iterator[None]:
        """Let an operation pass, or hold it, or raise what it is answered, before it or after it."""
        with self._lock:
            fault = self._due(operation, path)
        while fault is not None and fault.kind == "hang" and self._goes_on(fault):
            time.sleep(0.005)
        if fault is not None and fault.kind not in ("hang", "lost"):
            raise _error(fault.kind)
        yield
        if fault is not None and fault.kind == "lost":
            raise _error("EIO")

    def _goes_on(self, fault: Fault) -> bool:
        with self._lock:
            return fault is self._going_on()

    def _due(self, operation: str, path: str) -> Fault | None:
        fault = self._going_on()
        if fault is None:
            return None
        self._passed += 1
        if self._passed <= fault.after or not fault.concerns(operation, path):
            return None
        self._skipped += 1
        if self._skipped <= fault.skips:
            return None
        counts = self._counts.setdefault(fault.kind, Counter())
        if self._refused == 0:
            counts["faults"] += 1
            self._until = time.monotonic() + fault.seconds if fault.seconds else float("inf")
        counts["refused"] += 1
        self._refused += 1
        return fault

    def _going_on(self) -> Fault | None:
        """Return the fault whose turn it is, after those that are over."""
        if not self._faults:
            return None
        fault = self._faults[0]
        is_over = time.monotonic() >= self._until or (fault.times and self._refused >= fault.times)
        if is_over or (not self._refused and self._passed > fault.after + PATIENCE):
            self._begin(self._faults[1:])
            return self._going_on()
        return fault

    def _begin(self, faults: list[Fault]) -> None:
        self._faults = faults
        self._passed = self._skipped = self._refused = 0
        self._until = float("inf")


def _error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))
