"""
Which rank keeps the others waiting: how long each is busy itself, step by step.

    watch = Stopwatch(device, data_seconds)             # a step begins
    watch.stop()                                        # before this rank would wait for the others
    pace = Pace(shares)                                 # how much each rank has to do in a step
    for event in pace.look(step, vote.busy_seconds): ... # on rank 0

Steps of all ranks end together, so a step's length names nobody. What a rank does alone is told apart by
the time up to the end of its last forward: from there on its gradients wait for those of the others. On
a GPU the time is that of the GPU, read when the step has ended anyway.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from instruct_core.events import SlowRank

SLOW = 1.5  # times the usual
SLOW_STEPS = 20  # in a row
LEAST_SECONDS = 0.005  # a step: less is worth nobody's look


class Stopwatch:
    """
    How long one rank is busy itself in a step, which begins now.

    Args:
        device: Where it is computed.
        waited_seconds: How long this rank has waited for the step's samples.
    """

    def __init__(self, device: torch.device, waited_seconds: float) -> None:
        self._waited = waited_seconds
        self._events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self._events = [torch.cuda.Event(True), torch.cuda.Event(True)]  # type: ignore[no-untyped-call]
            self._events[0].record()
        self._began = self._ended = time.monotonic()

    def stop(self) -> None:
        """Say that from here on this rank may wait for others."""
        if self._events:
            self._events[1].record()
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of a step that has ended: a GPU is not waited for."""
        busy = self._ended - self._began
        if self._events:
            busy = self._events[0].elapsed_time(self._events[1]) / 1e3
        return self._waited + busy


class Pace:
    """
    Looks at the steps of all ranks; rank 0's.

    Args:
        shares: How much each computes in a step: one that has more may take longer.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        usual = statistics.median_low(shares)
        self._shares = [max(1.0, share / usual) for share in shares]
        self._slow = [0] * len(shares)  # steps in a row, by rank

    def look(self, step: int, busy_seconds: Sequence[float]) -> list[SlowRank]:
        """Return the ranks that have just been slow for so many steps in a row, each told once."""
        if len(busy_seconds) < 2 or min(busy_seconds) <= 0:
            return []
        # Of two ranks the faster one is the usual.
        each = zip(busy_seconds, self._shares, strict=True)
        median = statistics.median_low([seconds / share for seconds, share in each])
        found = []
        for rank, seconds in enumerate(busy_seconds):
            usual = median * self._shares[rank]
            limit = max(SLOW * usual, usual + LEAST_SECONDS)
            self._slow[rank] = self._slow[rank] + 1 if seconds > limit else 0
            if self._slow[rank] == SLOW_STEPS:
                found.append(SlowRank(step, rank, round(seconds, 4), round(usual, 4)))
        return found
