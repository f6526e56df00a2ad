"""
What an attempt tells of its steps, where the run's records lie: ledger, curves, samples.

    records = Records(runs, attempt, world.rank, sheet.spent)
    records.note(Resumed(100))
    records.begin(100, with_samples=True)
    records.curves.log(101, {"train/loss": 2.9})
    records.write_before_a_save()      # nobody makes its steps again to tell of them
    records.write_last(60.0)

Rank 0 keeps ledger and curves; every rank the samples it reads, if that was asked for. Training waits
once for a disk or a store that is away: what was waited for the ledger no save waits for again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from instruct_core.events import Event
from instruct_core.storage.growing_file import GrowingFile
from instruct_core.storage.patience import LOOK_AGAIN_SECONDS
from instruct_core.storage.store import Store
from instruct_core.train.metrics import Metrics
from jobs.ledger import Ledger


class Records:
    """
    The files that one rank of an attempt writes into the run's folder.

    Args:
        runs: That folder.
        attempt: Its number.
        rank: Who writes.
        spent: As of a Ledger.
    """

    def __init__(
        self, runs: Store, attempt: int, rank: int, spent: Callable[[], dict[str, float]]
    ) -> None:
        self._runs, self._attempt, self._rank = runs, attempt, rank
        self.ledger = Ledger(runs, attempt, spent) if rank == 0 else None
        self._curves: Metrics | None = None
        self._samples: GrowingFile | None = None
        self._began_at = 0  # step
        self._patience_seconds = LOOK_AGAIN_SECONDS  # that training still has, until all is written

    def note(self, event: Event, patience_seconds: float = 0.0) -> None:
        """Write an event into the ledger, on rank 0; the last one with patience, as `Ledger.note`."""
        if self.ledger is None:
            return
        asked_at, has_waited = time.monotonic(), self._patience_seconds < LOOK_AGAIN_SECONDS
        self.ledger.note(event, patience_seconds=patience_seconds, is_hasty=has_waited)
        if self.ledger.is_behind:
            self._patience_seconds -= time.monotonic() - asked_at

    def begin(self, step: int, with_samples: bool) -> None:
        """Take the step that the attempt goes on from, and whether it says which samples it reads."""
        self._began_at = step
        if with_samples:
            name = f"samples-{self._attempt:04d}-{self._rank:05d}.jsonl"
            self._samples = GrowingFile(self._runs.local_path(name), "samples that were read")

    @property
    def curves(self) -> Metrics:
        """The curves, opened with the first point: tensorboard's import must not delay the first step."""
        if self._curves is None:
            self._curves = Metrics(self._runs, self._attempt, self._began_at)
        return self._curves

    @property
    def has_curves(self) -> bool:
        """Whether a point was logged."""
        return self._curves is not None

    def read(self, step: int, samples: list[int]) -> None:
        """Take the numbers of the samples that this rank reads for a step."""
        if self._samples is not None:
            self._samples.add(json.dumps({"step": step, "samples": samples}).encode() + b"\n")
            self._samples.write()

    def write_before_a_save(self) -> None:
        """Write what is told of the steps that it saves: nobody makes them again to tell it."""
        asked_at = time.monotonic()
        until = asked_at + max(0.0, self._patience_seconds)
        written = self.ledger is None or self.ledger.catch_up(until - time.monotonic())
        if self._write_files(until) and written:
            self._patience_seconds = LOOK_AGAIN_SECONDS
        else:
            self._patience_seconds -= time.monotonic() - asked_at

    def write_last(self, patience_seconds: float) -> None:
        """Write what was not yet, at the end of the attempt and behind its last event."""
        self._write_files(time.monotonic() + patience_seconds)

    def _write_files(self, until: float) -> bool:
        """Flush samples and curves, and send these where they belong; False where one is refused."""
        files = [self._curves.file] if self._curves else []
        files += [self._samples] if self._samples else []
        written = [file.write(until - time.monotonic(), durably=True) for file in files]
        if self._curves is not None:
            written.append(self._curves.publish(until - time.monotonic()))
        return all(written)

    def close(self) -> None:
        """Write and send what was not yet, and end."""
        self._write_files(time.monotonic())
        if self._curves is not None:
            self._curves.close()
