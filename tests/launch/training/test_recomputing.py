"""Activation checkpointing as a person types it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import TINY_RUN, hashes_of, launch

SETTING, SAID = '"activation_checkpointing": "on"', "with activation checkpointing\n"


def told(desk: Path, *words: str) -> str:
    """Return what a launch says."""
    done = launch("finetune", "--run=r", *words, cwd=desk)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_choice_that_was_typed_stays_until_another_is_typed_and_changes_no_bit(
    desk: Path, shard_set: Path
) -> None:
    words = [f"--shards={os.path.relpath(shard_set, desk)}", *TINY_RUN, "--dropout=0.1"]
    assert SETTING[:-4] not in told(desk, *words, "--max-steps=2", "--dry-run")
    told(desk, *words, "--max-steps=2", "--decay-steps=4")

    assert SAID in told(desk, "--max-steps=4", "--activation-checkpointing=on")
    again = told(desk, "--max-steps=6", "--dry-run")
    auto = told(desk, "--max-steps=6", "--dry-run", "--activation-checkpointing=auto")

    assert (SAID in again, SETTING in again) == (True, True)
    assert (SAID in auto, SETTING in auto) == (False, False)
    whole = launch("finetune", "--run=whole", *words, "--max-steps=4", cwd=desk)
    assert whole.returncode == 0, whole.stderr
    runs = desk / "checkpoints_instruct"
    assert hashes_of(runs / "r", 4) == hashes_of(runs / "whole", 4)
