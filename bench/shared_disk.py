"""
A run's store on a shared disk that fails a thousand times: what is lost, and what is condemned.

    python -m bench.shared_disk                     # 1,000 faults
    python -m bench.shared_disk --faults 100 --seed 7

The disk is the one of the tests (tests/shared_disk/): a folder mounted through FUSE that answers EIO,
ESTALE or EDQUOT for a while, or nothing, at drawn operations and places. Attempts follow one another:
each claims the run, loads the newest step, compares its bits with those that were saved, and saves
step after step until a fault ends it. Prints one JSON line a kind, and one for the whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import committed_steps, damage_of
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage.store import Store
from tests.fakes import facts_of
from tests.shared_disk.faults import drawn
from tests.shared_disk.mount import SharedDisk, why_not

AT_A_TIME = 100  # faults that are planned; some meet nobody who asks for such an operation
APART, SECONDS = 40, 0.03  # operations between two of them; how long each goes on
SAVES = 5  # of an attempt, if nothing ends it
KEEP = Keep(last=3)


class Run:
    """One run through all faults, and what became of it."""

    def __init__(self, url: str) -> None:
        self.store = Store(url)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--faults", type=int, default=1000, help="at least so many (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default: 1)")
    flags = parser.parse_args()
    if problem := why_not():
        parser.exit(1, f"No such disk can be had here: it {problem}.\n")
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        with SharedDisk(place / "folder", place / "mounted") as disk:
            run, seed = Run(str(disk.path / "run")), flags.seed
            while _num_faults(counts := disk.counts()) < flags.faults:
                if not disk.num_planned():
                    disk.plan(drawn(seed, AT_A_TIME, apart=APART, seconds=SECONDS))
                    seed += 1
                with contextlib.suppress(OSError):
                    run.attempt()
            disk.heal()
            run.attempt()
            steps = committed_steps(run.store)
            damaged = [step for step in steps if damage_of(run.store, step)]
    for kind, numbers in sorted(counts.items()):
        print(json.dumps({"kind": kind, **numbers}))
    print(
        json.dumps(
            {
                "faults": _num_faults(counts), "attempts": run.attempts, "saves": run.saves,
                "last_step": run.committed, "steps_lost": run.lost, "loads_differing": run.differing,
                "condemned": len(run.condemned), "damaged_at_the_end": len(damaged),
                "seconds": round(time.monotonic() - began_at),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
