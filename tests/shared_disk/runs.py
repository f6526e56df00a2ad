"""
A run whose everything lies on a disk with a will of its own, and what can be read of it afterwards.

    cwd, commands = train_through(disk, shards, "project", drawn(seed=2, count=100))
    Course.of(cwd).lost                      # 0
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from instruct_core.checkpoints.steps import committed_steps, damage_of
from instruct_core.storage.store import Store
from tests.conftest import events_of, launch
from tests.shared_disk.faults import Fault
from tests.shared_disk.mount import SharedDisk
from tests.tiny_runs import arguments, run_of

FLAGS = ("--dropout=0.1", "--eval-every=100", "--cluster=local")
MOST_COMMANDS = 20


def train_through(
    disk: SharedDisk, shard_set: Path, name: str, faults: Sequence[Fault]
) -> tuple[Path, int]:
    """
    Train two ranks to their end, and give the command again where it ends with an error.

    What is refused is one line without a traceback. Returns the person's folder, and how many
    commands it took.
    """
    cwd = disk.path / name
    cwd.mkdir()
    shards = Path(shutil.copytree(shard_set, cwd / "shards"))
    disk.plan(faults)
    for number in range(1, MOST_COMMANDS + 1):
        result = launch("finetune", *arguments(shards, 2, *FLAGS), cwd=cwd)
        assert "Traceback" not in result.stderr, result.stderr
        if result.returncode == 0:
            disk.heal()
            return cwd, number
        print(result.stdout, result.stderr)
    raise AssertionError("the run does not come to its end")


class Course(NamedTuple):
    """What a run has gone through."""

    attempts: int
    crashes: int
    lost: int  # steps that were saved and trained again
    condemned: int
    damaged: int  # of the checkpoints that are there

    @classmethod
    def of(cls, cwd: Path) -> Self:
        """Read it from a person's folder."""
        store, events = Store(cwd / "checkpoints_instruct" / "r"), events_of(run_of(cwd))
        saved = lost = 0
        for event in events:
            saved = max(saved, event["step"]) if event["event"] == "saved" else saved
            if event["event"] == "resumed":
                lost += max(0, saved - event["step"])
        told = [event["event"] for event in events]
        aside = [name for name in store.names() if name.startswith("damaged")]
        return cls(
            attempts=len({event["attempt"] for event in events}),
            crashes=told.count("crashed"),
            lost=lost,
            condemned=told.count("damaged") + len(aside),
            damaged=sum(bool(damage_of(store, step)) for step in committed_steps(store)),
        )
