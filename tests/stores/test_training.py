"""
A whole training with its checkpoints on Google's and Azure's storage, which goes away on the way.

Two ranks; the server is cut off while they start, in a save, and again while they come back from a kill.
The last checkpoint has the bits of a run that nobody disturbed, on a disk.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.checkpoints.steps import committed_steps, damage_of, read_manifest
from instruct_core.storage.store import Store
from tests.conftest import HANGS_SECONDS, TINY_RUN, events_of, rank_pids, start
from tests.stores.line import Fault, Request
from tests.stores.servers import Emulated

LAST = 12
DATA_BYTES = 1 << 16  # a request with more is of a save
LOST = 8  # requests of an outage


def command(shards: Path, *more: str) -> list[str]:
    return [
        "--run=r", f"--shards={shards}", "--gpus=2", f"--max-steps={LAST}", "--cluster=local",
        *TINY_RUN, "--tokens-per-step=256", "--micro-batch-size=1", "--save-every=3",
        "--eval-every=100", "--dropout=0.1", *more,
    ]  # fmt: skip


def train(cwd: Path, shards: Path, *more: str) -> str:
    launcher = start("finetune", *command(shards, *more), cwd=cwd)
    said, errors = launcher.communicate(timeout=HANGS_SECONDS)
    assert launcher.returncode == 0, said + errors
    return said + errors


def hashes(store: Store) -> dict[str, str]:
    """Return what the last checkpoint says of its files, which all verify."""
    assert damage_of(store, LAST) == ""
    return {entry.file: entry.xxh3 for entry in read_manifest(store, LAST).files}


class Outages:
    """What the line does, one after the other: each begins when it is due, and takes some requests."""

    def __init__(self, cwd: Path) -> None:
        self._run = cwd / "runs_instruct" / "r"
        self.came: list[str] = []
        self._left = 0  # requests of the present one
        self._due: list[tuple[str, Callable[[Request], bool]]] = [
            ("at a start", lambda request: self._starts() == 1),
            ("in a save", lambda request: request.num_bytes > DATA_BYTES),
            ("killed", lambda request: request.num_bytes > DATA_BYTES and self._saves() > 0),
            ("at the next start", lambda request: self._starts() == 2),
        ]

    def _starts(self) -> int:
        return len(list(self._run.glob("job/*/rendezvous/*")))

    def _saves(self) -> int:
        return sum(event["event"] == "saved" for event in events_of(self._run))

    def plan(self, request: Request) -> Fault | None:
        if self._left:
            self._left -= 1
            return Fault.CUT_BEFORE
        if not self._due or not self._due[0][1](request):
            return None
        what, _ = self._due.pop(0)
        self.came.append(what)
        if what == "killed":
            os.kill(rank_pids(self._run)[1], signal.SIGKILL)
            return None
        self._left = LOST - 1
        return Fault.CUT_BEFORE


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, light_shards: Path) -> dict[str, str]:
    cwd = tmp_path_factory.mktemp("undisturbed")
    train(cwd, light_shards)
    return hashes(Store(cwd / "checkpoints_instruct" / "r"))


def test_run_on_a_store_that_goes_away_ends_with_the_bits_of_one_on_a_disk(
    emulated: Emulated, tmp_path: Path, light_shards: Path, undisturbed: dict[str, str]
) -> None:
    outages = Outages(tmp_path)
    emulated.line.plan(outages.plan)

    said = train(tmp_path, light_shards, f"--checkpoints={emulated.url}/runs")

    emulated.line.clear()
    store, events = Store(f"{emulated.url}/runs/r"), events_of(tmp_path / "runs_instruct" / "r")
    assert hashes(store) == undisturbed
    assert outages.came == ["at a start", "in a save", "killed", "at the next start"], said
    assert [damage_of(store, step) for step in committed_steps(store)].count("") == 3
    assert not [name for name in store.names() if name.startswith("damaged")]
    assert [event["event"] for event in events].count("started") == 2
    assert events[-1]["event"] == "finished"
    assert "Traceback" not in said
