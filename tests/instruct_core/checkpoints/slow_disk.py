"""Checkpoints on a disk that a test holds, fails and lets go on."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep, Removed
from instruct_core.checkpoints.saves import Saves
from instruct_core.checkpoints.snapshot import Snapshot
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import TrainConfig
from instruct_core.events import Event
from instruct_core.storage.store import Store
from tests.fakes import facts_of

CONFIG = TrainConfig("r", "s", "c", "t", "random", "tiny", "f")
SECONDS = 20.0


class SlowCheckpoints(Checkpoints):
    """Writes when it is told to, and fails as often as it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Store(folder))
        self.claim_attempt()
        self.go = threading.Event()
        self.failures = 0
        self.writing = 0
        self.most_writing = 0

    def write(self, snapshot: Snapshot, keep: Keep) -> Removed:
        self.writing += 1
        self.most_writing = max(self.writing, self.most_writing)
        try:
            assert self.go.wait(SECONDS)
            if self.failures:
                self.failures -= 1
                snapshot.copied.set()
                raise OSError("the disk says no")
            return super().write(snapshot, keep)
        finally:
            self.writing -= 1


class Desk:
    """A state of one tensor, which is the number of the step, and the saves of it."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.checkpoints = SlowCheckpoints(folder)
        self.weight = torch.zeros(1000)
        self.step = 0
        self.events: list[Event] = []
        self.saves = Saves(config, self.checkpoints, self._take, self.events.append)

    def _take(self, copied: bool) -> Snapshot:
        facts = facts_of(self.step)
        return self.checkpoints.take(self.step, {"w": self.weight}, {}, {}, {}, facts, copied)

    def train_to(self, step: int) -> None:
        self.saves.hold_update()
        self.step = step
        self.weight.fill_(step)

    def save(self, step: int) -> None:
        """Train to a step and have it saved."""
        self.checkpoints.go.set()
        self.train_to(step)
        self.saves.begin(step)
        self.wait_until_written()
        self.saves.look()

    def wait_until_written(self) -> None:
        thread = self.saves._background._thread
        assert thread is not None
        thread.join(SECONDS)

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def saved_weight(self) -> tuple[int, float]:
        loaded = load_newest(Checkpoints(self.checkpoints.store))
        assert loaded is not None
        return loaded.step, float(loaded.model["w"][0])
