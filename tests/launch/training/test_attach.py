"""The same command while a run is queued or training: what it joins, takes, refuses and replaces."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from instruct_core.storage.store import Store
from jobs.events import Event, Failed, Resumed
from jobs.job_folder import START, Progress, write_progress
from jobs.ledger import Ledger
from launch.cluster.lock import RunLock
from launch.runs.run import Run
from launch.training.attach import attempt_elsewhere
from tests.conftest import TINY_RUN, launch
from tests.launch.played_slurm import PlayedSlurm
from tests.launch.runs.test_run import save

FLAGS = ["--run=r", "--nodes=2", "--time=60", "--max-steps=30", *TINY_RUN]


def submitted(desk: Path, shard_set: Path, *more: str) -> list[str]:
    """Queue the run, and return the words that did it."""
    words = [f"--shards={os.path.relpath(shard_set, desk)}", *FLAGS, *more]
    done = launch("finetune", *words, cwd=desk)
    assert done.returncode == 0, done.stderr
    return words


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["--time=2", "--save-every=50"], ["--save-every is 5, got 50", "--time is 60, got 2"]),
        (["--partition=nonsense"], ["--partition is not given, got nonsense"]),
        (["--max-steps=400"], ["--max-steps is 30, got 400"]),
        (
            ["--learning-rate=1", "--seed=3"],
            ["--learning-rate is 0.001, got 1.0", "--seed is 1337"],
        ),
        (["--nodes=1", "--gpus=2"], ["--nodes is 2, got 1", "--gpus is 1, got 2"]),
        (["--cluster=local"], ["--cluster is slurm, got local"]),
        (["--runs=elsewhere"], ["--runs is ", "elsewhere"]),
        (["--compile", "--dry-run"], ["--compile is False, got True"]),
        (["--activation-checkpointing=on"], ["--activation-checkpointing is off, got on"]),
        (["--shard=full"], ["--shard is none, got full"]),
    ],
)
def test_flags_that_a_queued_run_does_not_take_are_refused(
    slurm: PlayedSlurm, desk: Path, shard_set: Path, typed: list[str], named: list[str]
) -> None:
    submitted(desk, shard_set)

    done = launch("finetune", "--run=r", *typed, cwd=desk)

    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: Run r is on Slurm already: job 1, PENDING (Resources)")
    assert done.stderr.count("\n") == 1
    for words in (*named, "Not taken: scancel 1 first, then the same command"):
        assert words in done.stderr
    assert slurm.jobs == ["1"]


def test_same_command_and_the_name_alone_join_a_queued_run(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    before = launch("preprocess", "--source=builtin", "--out=x", "--limit-rows=9", cwd=desk)
    assert before.returncode == 0, before.stderr
    words = submitted(desk, shard_set, "--after=1", "--init=random", "--precision=auto")

    again = launch("finetune", *words, cwd=desk)
    alone = launch("finetune", "--run=r", cwd=desk)

    for done in (again, alone):
        assert done.returncode == 0, done.stderr
        assert "Run r is on Slurm already: job 2, PENDING (Resources)." in done.stdout
    assert slurm.jobs == ["1", "2"]


def test_run_that_has_saved_is_told_what_it_keeps_for_life(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    submitted(desk, shard_set)
    save(Run.find("r", str(desk / "checkpoints_instruct")), 5)

    done = launch("finetune", "--run=r", "--seed=3", cwd=desk)

    assert done.returncode == 2
    assert "cannot go on with other settings: --seed is 1337, got 3" in done.stderr
    assert "scancel" not in done.stderr


def test_flags_that_a_run_on_this_machine_does_not_take_are_refused(
    desk: Path, shard_set: Path
) -> None:
    words = [f"--shards={shard_set}", "--run=r", "--max-steps=2", *TINY_RUN]
    assert launch("finetune", *words, cwd=desk).returncode == 0
    run = Run("r", Store(desk / "checkpoints_instruct" / "r"))
    lock = RunLock(run.lock)
    assert lock.acquire()
    lock.name_job(os.getpid(), desk, run.ledger.url)

    refused = launch("finetune", "--run=r", "--save-every=7", "--cluster=slurm", cwd=desk)
    shown = launch("finetune", *words, "--dry-run", cwd=desk)

    lock.close()
    assert refused.returncode == 2, refused.stdout
    assert f"Run r is training already (job {os.getpid()}), with other flags:" in refused.stderr
    assert "--save-every is 5, got 7; --cluster is local, got slurm" in refused.stderr
    assert f"Not taken: kill {os.getpid()}" in refused.stderr
    assert (shown.returncode, shown.stderr) == (0, "")


def test_job_that_can_never_start_is_replaced_by_the_same_command(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    words = submitted(desk, shard_set)
    slurm.change("1", Reason="DependencyNeverSatisfied")

    looked = launch("finetune", *words, "--dry-run", cwd=desk)
    wrong = launch("finetune", *words, "--partition=nonsense", cwd=desk)
    assert (slurm.state("1"), slurm.jobs) == ("PENDING", ["1"])
    again = launch("finetune", *words, "--time=30", cwd=desk)

    assert looked.returncode == 0, looked.stderr
    assert wrong.returncode == 2
    assert again.returncode == 0, again.stderr
    assert "Job 1 is cancelled, and replaced: what it waited for has failed." in again.stdout
    assert (slurm.state("1"), slurm.jobs) == ("CANCELLED", ["1", "2"])
    document = json.loads((desk / "checkpoints_instruct" / "r" / "run.json").read_text())
    assert document["asked"]["slurm"]["time"] == 30


def test_run_that_is_just_ending_is_told_from_one_that_goes_on(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    words = submitted(desk, shard_set)
    slurm.change("1", JobState="COMPLETING")

    done = launch("finetune", *words, cwd=desk)

    assert done.returncode == 2
    assert "Run r is ending (job 1, COMPLETING)" in done.stderr
    assert "again in a moment" in done.stderr
    slurm.change("1", Restarts="1")  # taken down, and back in the queue next
    requeued = launch("finetune", *words, cwd=desk)
    assert requeued.returncode == 0, requeued.stderr


def test_run_on_a_slurm_that_does_not_answer_is_not_started_a_second_time(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    words = submitted(desk, shard_set)
    slurm.is_away()
    before = len(slurm.asked("scontrol"))

    done = launch("finetune", *words, cwd=desk)

    assert done.returncode == 2
    assert "Run r may be on Slurm still (job 1): Slurm does not answer" in done.stderr
    assert len(slurm.asked("scontrol")) == before + 1, "once, and not for every question"


@pytest.mark.parametrize(
    ("place", "events", "is_ours", "said"),
    [
        ("memory://elsewhere", [], False, True),  # its ledger is on a disk of the other site
        ("memory://elsewhere", [Resumed(step=0)], False, True),
        ("memory://elsewhere", [Resumed(step=0), Failed("x")], False, False),
        ("memory://elsewhere", [Resumed(step=0)], True, False),  # its lock here is free: it is lost
        ("", [Resumed(step=0)], False, False),  # its lock lies beside its steps
    ],
)
def test_run_in_a_bucket_that_may_train_at_another_site_is_not_taken_over_in_silence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    events: list[Event],
    is_ours: bool,
    said: bool,
) -> None:
    run = Run("r", Store(place or tmp_path / "c") / "r", str(tmp_path / "runs"))
    run.store.replace("attempts/0000.json", b'{"host": "node7"}')
    for event in events:
        Ledger(run.ledger, attempt=0).note(event)
    (run.job_parent / "0000").mkdir(parents=True)
    if is_ours:
        monkeypatch.setenv(START, "0000")
        write_progress(run.job_parent / "0000", Progress(attempt=0, global_step=3))

    told = attempt_elsewhere(run)

    assert told.startswith("attempt 0 of this run was begun from another folder, on node7") == said
    assert bool(told) == said
