"""The first promise: an interrupted run ends like an undisturbed one, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from pathlib import Path

import pytest

from tests.conftest import (
    TINY_RUN,
    events_of,
    last_read_step,
    launch,
    rank_pids,
    samples_of,
    start,
    wait_for,
)

STEPS = 30


def arguments(shards: Path, gpus: int, *more: str) -> list[str]:
    return [
        f"--shards={shards}", f"--gpus={gpus}", f"--max-steps={STEPS}", "--run=r", "--dropout=0.1",
        "--record-samples", *TINY_RUN, *more,
    ]  # fmt: skip


def train_to_the_end(cwd: Path, shards: Path, gpus: int, *more: str) -> None:
    result = launch("finetune", *arguments(shards, gpus, *more), cwd=cwd)
    assert result.returncode == 0, result.stderr


def final_hashes(cwd: Path, step: int = STEPS) -> dict[str, str]:
    """Hash every file of the last checkpoint but the manifest: model, optimizer and RNG."""
    folder = cwd / "checkpoints_instruct" / "r" / f"step-{step:08d}"
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shard_set: Path) -> Path:
    cwd = tmp_path_factory.mktemp("undisturbed")
    train_to_the_end(cwd, shard_set, 2)
    return cwd


def test_run_hit_by_warning_stop_and_kill_ends_like_an_undisturbed_one(
    undisturbed: Path, shard_set: Path, tmp_path: Path, killed_after_test: list
) -> None:
    draw = random.Random(int.from_bytes(os.urandom(4), "little"))
    usr2_at, term_at, kill_at = sorted(draw.sample(range(2, STEPS - 2), 3))
    print(f"USR2 at step {usr2_at}, TERM at {term_at}, KILL at {kill_at}")
    run = tmp_path / "runs_instruct" / "r"
    faults = [(usr2_at, signal.SIGUSR2), (term_at, signal.SIGTERM), (kill_at, signal.SIGKILL)]

    while faults:
        launcher = start("finetune", *arguments(shard_set, 2), cwd=tmp_path)
        killed_after_test.append(launcher)
        while faults and launcher.poll() is None:
            at, signum = faults[0]
            num_starts = len([e for e in events_of(run) if e["event"] == "started"])
            wait_for(
                lambda at=at: last_read_step(run) >= at or launcher.poll() is not None, f"step {at}"
            )
            if launcher.poll() is None:
                faults.pop(0)
                os.kill(draw.choice(rank_pids(run)), signum)
                wait_for(
                    lambda n=num_starts: len(
                        [e for e in events_of(run) if e["event"] == "started"]
                    ) > n or launcher.poll() is not None,
                    "an end or a new attempt",
                )  # fmt: skip
        launcher.wait(timeout=120)
        launcher.communicate()
    train_to_the_end(tmp_path, shard_set, 2)

    assert final_hashes(tmp_path) == final_hashes(undisturbed)
    assert samples_of(run) == samples_of(undisturbed / "runs_instruct" / "r")
    seen = [event["event"] for event in events_of(run)]
    assert seen.count("requeued") >= 1
    assert seen.count("resumed") >= 3
