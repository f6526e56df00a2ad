"""So many passes over the data, in steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instruct_core.config import TrainConfig
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from launch.training.epochs import steps_of_epochs
from tests.conftest import TINY_RUN, launch


def config_of(shards: Path) -> TrainConfig:
    return TrainConfig(
        "run", str(shards), "checkpoints", "runs", "random", "tiny", "", seq_len=64,
        tokens_per_step=512,
    )  # fmt: skip


@pytest.mark.parametrize("epochs", [0.001, 0.5, 1.0, 3.0])
def test_so_many_epochs_are_read_and_no_step_more(shard_set: Path, epochs: float) -> None:
    config = config_of(shard_set)
    lengths = ShardSet(Store(shard_set), "train").lengths()
    num_sequences = pack(lengths, config.seq_len, config.seed).num_sequences

    steps = steps_of_epochs(epochs, config)

    read = steps * config.global_batch_size
    assert read >= epochs * num_sequences > read - config.global_batch_size


def test_epochs_decide_the_steps_and_the_end_of_the_cosine(tmp_path: Path, shard_set: Path) -> None:
    flags = [f"--shards={shard_set}", *TINY_RUN, "--cluster=local", "--dry-run"]

    shown = launch("finetune", *flags, "--epochs=2", cwd=tmp_path)
    both = launch("finetune", *flags, "--epochs=2", "--max_steps=9", cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    settings = json.loads("{" + shown.stdout.partition("\n{")[2])
    steps = steps_of_epochs(2, config_of(shard_set))
    assert settings["max_steps"] == settings["decay_steps"] == steps
    assert both.returncode == 2
    assert both.stderr == "error: --epochs does not go with --max-steps: give one of the two.\n"


def test_epochs_of_shards_that_are_not_there_yet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--epochs needs shards that are there"):
        steps_of_epochs(1, config_of(tmp_path))
