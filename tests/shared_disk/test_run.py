"""
A run whose everything lies on a shared disk that fails for a while: shards, checkpoints, books, code.

The launcher, the ranks and what brings them back all meet the faults. A person gives the command
again where it ends; the last checkpoint has the bits of a run that nobody disturbed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from instruct_core.checkpoints.steps import committed_steps, damage_of
from instruct_core.storage.store import Store
from tests.conftest import events_of, launch
from tests.shared_disk.faults import Fault, drawn
from tests.shared_disk.mount import SharedDisk, needs_fuse
from tests.tiny_runs import arguments, final_hashes, run_of, train

pytestmark = needs_fuse
FLAGS = ("--dropout=0.1", "--eval-every=100", "--cluster=local")
MOST_COMMANDS = 8


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shard_set: Path) -> dict[str, str]:
    cwd = tmp_path_factory.mktemp("undisturbed")
    train(cwd, shard_set, 2, *FLAGS)
    return final_hashes(cwd)


def train_through(disk: SharedDisk, shard_set: Path, faults: Sequence[Fault]) -> Path:
    """Give the command again and again until the run is finished; return the person's folder."""
    cwd = disk.path / "project"
    cwd.mkdir()
    shards = Path(shutil.copytree(shard_set, disk.path / "shards"))
    disk.plan(faults)
    for _ in range(MOST_COMMANDS):
        result = launch("finetune", *arguments(shards, 2, *FLAGS), cwd=cwd)
        assert "Traceback" not in result.stderr, result.stderr
        assert len(result.stderr) < 1000, result.stderr
        if result.returncode == 0:
            return cwd
        print(result.stdout, result.stderr)
    pytest.fail("the run does not come to its end")


def check(cwd: Path, undisturbed: dict[str, str]) -> None:
    """Nothing lost, nothing condemned, no bit changed."""
    store = Store(cwd / "checkpoints_instruct" / "r")
    assert final_hashes(cwd) == undisturbed
    assert [damage_of(store, step) for step in committed_steps(store)] == ["", "", ""]
    assert not [name for name in store.names() if name.startswith("damaged")]
    events = events_of(run_of(cwd))
    assert not [event for event in events if event["event"] == "damaged"]
    assert events[-1]["event"] == "finished"
    saved = 0
    for event in events:
        saved = max(saved, event["step"]) if event["event"] == "saved" else saved
        if event["event"] == "resumed":
            assert event["step"] >= saved


def test_run_ends_with_the_same_bits_on_a_disk_that_fails_now_and_then(
    tmp_path: Path, shard_set: Path, undisturbed: dict[str, str]
) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "one") as disk:
        cwd = train_through(disk, shard_set, drawn(seed=2, count=30, apart=500, seconds=0.3))
        print(disk.counts())
        disk.heal()

        check(cwd, undisturbed)
        assert disk.counts(), "nothing went wrong at all"


def test_run_is_launched_and_trained_on_a_disk_without_flock(
    tmp_path: Path, shard_set: Path
) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "one", no_locks=True) as disk:
        train(disk.path / "project", shard_set, 1, "--max-steps=2", "--decay-steps=2", *FLAGS)

        assert disk.counts()["no flock"]["refused"] > 0
