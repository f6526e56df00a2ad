"""A run whose model is shared out over its ranks, as a person types it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import TINY_RUN, hashes_of, launch
from tests.launch.training.test_recomputing import told

SETTING, SAID = '"shard": "full"', "with the model in 2 parts\n"


def test_choice_that_was_typed_stays_and_the_run_goes_on_either_way(
    desk: Path, shard_set: Path
) -> None:
    words = [f"--shards={os.path.relpath(shard_set, desk)}", *TINY_RUN, "--gpus=2"]
    assert SETTING[:-6] not in told(desk, *words, "--max-steps=2", "--dry-run")
    told(desk, *words, "--max-steps=2", "--decay-steps=6")

    in_parts = told(desk, "--max-steps=4", "--shard=full")
    again = told(desk, "--max-steps=6", "--dry-run")
    whole = told(desk, "--max-steps=6", "--gpus=1")
    answered = launch("chat", "--run=r", "--max-new-tokens=3", "--prompt=Hi.", cwd=desk)

    assert SAID in in_parts
    assert "2 ranks on cpu, the model in 2 parts" in in_parts
    assert "parts 1 -> 2, since the last attempt: this may alter bits" in in_parts
    assert (SAID in again, SETTING in again) == (True, True)
    assert "in 2 parts" not in whole
    assert answered.returncode == 0, answered.stderr
    assert set(hashes_of(desk / "checkpoints_instruct" / "r", 6))


def test_compiled_model_is_not_shared_out(desk: Path, shard_set: Path) -> None:
    words = [f"--shards={shard_set}", *TINY_RUN, "--gpus=2", "--compile", "--shard=full"]

    done = launch("finetune", "--run=r", *words, cwd=desk)

    assert done.returncode == 2
    assert done.stderr.startswith("error: --shard full takes no --compile: ")
    assert not (desk / "checkpoints_instruct").exists()
