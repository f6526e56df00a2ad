"""The same command while an array is queued or running."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from instruct_core.config import PRESETS
from instruct_core.model.gpt2 import GPT2
from tests.conftest import launch, write_rows
from tests.launch.played_slurm import PlayedSlurm

SHARDS = ["--source=rows.jsonl", "--out=s", "--num-tasks=2", "--time=60"]


def shards_queued(desk: Path, *more: str) -> None:
    write_rows(desk / "rows.jsonl", 600)
    done = launch("preprocess", *SHARDS, *more, cwd=desk)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["--num-tasks=3"], "--num-tasks is 2, got 3"),
        (["--num-tasks=4"], "--num-tasks is 2, got 4"),  # the default, but typed
        (
            ["--time=5", "--array-parallelism=1"],
            "--array-parallelism is not given, got 1; --time is 60",
        ),
        (["--encoder=tiktoken"], "--encoder is auto, got tiktoken"),
        (["--partition=low"], "--partition is not given, got low"),
        (["--cluster=local"], "--cluster is slurm, got local"),
    ],
)
def test_flags_that_queued_tasks_do_not_take_are_refused(
    slurm: PlayedSlurm, desk: Path, typed: list[str], named: str
) -> None:
    shards_queued(desk)

    done = launch("preprocess", *SHARDS[:2], *typed, cwd=desk)

    assert done.returncode == 2, done.stdout
    assert "are being made already: job 1, PENDING (Resources), with other flags: " in done.stderr
    assert named in done.stderr
    assert "Not taken: scancel 1 first" in done.stderr
    assert slurm.jobs == ["1"]


def test_same_command_and_a_shorter_one_join_queued_tasks(slurm: PlayedSlurm, desk: Path) -> None:
    shards_queued(desk)

    for words in (SHARDS, SHARDS[:2], [*SHARDS, "--cluster=slurm"]):
        done = launch("preprocess", *words, cwd=desk)

        assert done.returncode == 0, done.stderr
        assert "are being made already: job 1, PENDING (Resources)." in done.stdout
    assert slurm.jobs == ["1"]


def test_flags_that_queued_answers_do_not_take_are_refused(slurm: PlayedSlurm, desk: Path) -> None:
    model = GPT2(PRESETS["tiny"])
    model.initialize(seed=1)
    torch.save({"model": model.state_dict()}, desk / "tiny.pt")
    (desk / "q.jsonl").write_text(json.dumps({"prompt": "Hi."}) + "\n")
    words = ["--checkpoint=tiny.pt", "--source=q.jsonl", "--out=a.jsonl"]
    assert launch("generate", *words, "--mem=2", cwd=desk).returncode == 0

    refused = launch("generate", *words, "--mem=3G", cwd=desk)
    joined = launch("generate", *words, "--mem=2G", cwd=desk)

    assert refused.returncode == 2, refused.stdout
    assert "--mem is 2.0, got 3.0" in refused.stderr
    assert joined.returncode == 0, joined.stderr
    assert slurm.jobs == ["1"]


def test_tasks_that_can_never_start_are_replaced_by_the_same_command(
    slurm: PlayedSlurm, desk: Path
) -> None:
    shards_queued(desk)
    slurm.change("1", Reason="DependencyNeverSatisfied")

    done = launch("preprocess", *SHARDS, cwd=desk)

    assert done.returncode == 0, done.stderr
    assert "Job 1 is cancelled, and replaced" in done.stdout
    assert (slurm.state("1"), slurm.jobs) == ("CANCELLED", ["1", "2"])


def test_tasks_on_this_machine_replace_those_that_can_never_start(
    slurm: PlayedSlurm, desk: Path
) -> None:
    shards_queued(desk)
    slurm.change("1", Reason="DependencyNeverSatisfied")

    done = launch("preprocess", *SHARDS, "--cluster=local", cwd=desk)

    assert done.returncode == 0, done.stderr
    assert "Shards are ready" in done.stdout
    assert slurm.state("1") == "CANCELLED"


def test_tasks_that_are_just_ending_are_told_from_those_that_go_on(
    slurm: PlayedSlurm, desk: Path
) -> None:
    shards_queued(desk)
    slurm.change("1", JobState="COMPLETING")

    done = launch("preprocess", *SHARDS, cwd=desk)

    assert done.returncode == 2, done.stdout
    assert "job 1 is ending. Give the same command again in a moment." in done.stderr


def test_tasks_on_a_slurm_that_does_not_answer_are_not_queued_again(
    slurm: PlayedSlurm, desk: Path
) -> None:
    shards_queued(desk)
    slurm.is_silent_about_jobs()

    done = launch("preprocess", *SHARDS, cwd=desk)

    assert done.returncode == 2, done.stdout
    assert "may be in the making still (job 1): Slurm does not answer" in done.stderr
