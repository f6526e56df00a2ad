"""
A disk that fails a thousand times: what a run's store, or a whole training, loses and condemns.

    python -m bench.shared_disk                     # the store: 1,000 faults
    python -m bench.shared_disk --faults 100 --seed 7
    python -m bench.shared_disk --training --faults 200 --minutes 7

The disk is the one of the tests (tests/shared_disk/): a folder mounted through FUSE that answers EIO,
ESTALE or EDQUOT for a while, or nothing, or does what it was asked and loses the answer, at drawn
operations and places. Prints one JSON line a kind, and one for the whole. `--minutes` ends it after the
attempt, or the run, in which they are over.

The store: attempts follow one another; each claims the run, loads the newest step, compares its bits
with those that were saved, and saves step after step until a fault ends it. The training: a run of two
ranks whose shards, code, checkpoints and ledger lie on the disk is launched, trained and brought back;
where a command ends with an error, it is given again. Runs follow one another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import committed_steps, damage_of
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage.store import Store
from tests.conftest import LAUNCHERS, launch, write_rows
from tests.fakes import facts_of
from tests.shared_disk.faults import OF_JOBS, drawn
from tests.shared_disk.mount import SharedDisk, why_not
from tests.shared_disk.runs import FLAGS, Course, train_through
from tests.tiny_runs import final_hashes, train

AT_A_TIME = 100  # faults that are planned; some meet nobody who asks for such an operation
APART, SECONDS = 40, 0.03  # operations between two of them; how long each goes on
APART_IN_TRAINING, SECONDS_IN_TRAINING = 200, 0.3
SAVES = 5  # of an attempt, if nothing ends it
KEEP = Keep(last=3)


class Run:
    """One run's store through all faults, and what became of it."""

    def __init__(self, url: str) -> None:
        self.store = Store(url, patience_seconds=0)  # every fault is met, and ends an attempt
        self.committed = self.attempts = self.saves = self.lost = self.differing = 0
        self.condemned: list[str] = []

    def attempt(self) -> None:
        """Claim the run, go on from its newest step, and save; raises OSError where the disk does."""
        self.attempts += 1
        checkpoints = Checkpoints(self.store)
        checkpoints.claim_attempt()
        loaded = load_newest(checkpoints, on_damaged=self.condemned.append)
        step = 0 if loaded is None else loaded.step
        self.lost += max(0, self.committed - step)
        if loaded is not None:
            self.differing += not torch.equal(loaded.model["w"], _weights(step)["w"])
        self.committed = step
        for _ in range(SAVES):
            self._save(checkpoints, self.committed + 1)
            self.committed += 1
            self.saves += 1

    def _save(self, checkpoints: Checkpoints, step: int) -> None:
        weights, rng = _weights(step), {"torch": torch.tensor([step % 256], dtype=torch.uint8)}
        snapshot = checkpoints.take(step, weights, {"n": step}, weights, rng, facts_of(step))
        checkpoints.write(snapshot, KEEP)


def _weights(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3000,), float(step))}


def _num_faults(counts: Mapping[str, Mapping[str, int]]) -> int:
    return sum(kind.get("faults", 0) for kind in counts.values())


def through_the_store(disk: SharedDisk, seed: int, goes_on: Callable[[], bool]) -> dict[str, Any]:
    """Have attempts follow one another for as long as it goes on; return what became of them."""
    run = Run(str(disk.path / "run"))
    while goes_on():
        if not disk.num_planned():
            disk.plan(drawn(seed, AT_A_TIME, apart=APART, seconds=SECONDS))
            seed += 1
        with contextlib.suppress(OSError):
            run.attempt()
    disk.heal()
    run.attempt()
    damaged = [step for step in committed_steps(run.store) if damage_of(run.store, step)]
    return {
        "attempts": run.attempts, "saves": run.saves, "last_step": run.committed,
        "steps_lost": run.lost, "loads_differing": run.differing, "condemned": len(run.condemned),
        "damaged_at_the_end": len(damaged),
    }  # fmt: skip


def through_training(
    disk: SharedDisk, scratch: Path, seed: int, goes_on: Callable[[], bool]
) -> dict[str, Any]:
    """Have runs follow one another for as long as it goes on; return what became of them."""
    rows = write_rows(scratch / "rows.jsonl", 600)
    flags = (f"--source={rows}", "--out=small", "--num-tasks=1")
    assert launch("preprocess", *flags, cwd=scratch).returncode == 0
    shards, quiet = scratch / "small", scratch / "undisturbed"
    train(quiet, shards, 2, *FLAGS)
    sums: Counter[str] = Counter()
    while goes_on():
        faults = drawn(
            seed, 10 * AT_A_TIME, apart=APART_IN_TRAINING, seconds=SECONDS_IN_TRAINING,
            quota_of=OF_JOBS,
        )  # fmt: skip
        cwd, commands = train_through(disk, shards, f"run-{seed}", faults)
        course = Course.of(cwd)
        sums.update(
            runs=1, commands=commands, attempts=course.attempts, crashes=course.crashes,
            saved_steps_lost=course.lost, condemned=course.condemned, damaged=course.damaged,
            ends_differing=final_hashes(cwd) != final_hashes(quiet),
        )  # fmt: skip
        seed += 1
    return dict(sums)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--faults", type=int, default=1000, help="at least so many (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default: 1)")
    parser.add_argument("--training", action="store_true", help="whole runs, not a store alone")
    parser.add_argument("--minutes", type=float, default=60, help="at most so many (default: 60)")
    flags = parser.parse_args()
    if problem := why_not():
        parser.exit(1, f"No such disk can be had here: it {problem}.\n")
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        with SharedDisk(place / "folder", place / "mounted") as disk:

            def goes_on() -> bool:
                is_early: bool = time.monotonic() - began_at < 60 * flags.minutes
                return is_early and _num_faults(disk.counts()) < flags.faults

            if flags.training:
                found = through_training(disk, place, flags.seed, goes_on)
                LAUNCHERS.close()
            else:
                found = through_the_store(disk, flags.seed, goes_on)
            counts = disk.counts()
    for kind, numbers in sorted(counts.items()):
        print(json.dumps({"kind": kind, **numbers}))
    seconds = round(time.monotonic() - began_at)
    print(json.dumps({"faults": _num_faults(counts), **found, "seconds": seconds}))


if __name__ == "__main__":
    main()
