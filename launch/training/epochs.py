"""
How many steps are so many passes over the training data.

    steps_of_epochs(3, config)       # 412
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from instruct_core.config import TrainConfig
from instruct_core.data.packing import load_packing
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shards import ShardSet
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from launch.flags.finetune import Finetune


def refuse_both(flags: Finetune, arguments: Sequence[str]) -> None:
    """Refuse --epochs beside --max-steps, of which one would be ignored; raises ConfigError."""
    typed = {word.split("=")[0].replace("_", "-") for word in arguments}
    if flags.epochs is not None and "--max-steps" in typed:
        raise ConfigError("--epochs does not go with --max-steps: give one of the two.")


def steps_of_epochs(epochs: float, config: TrainConfig) -> int:
    """
    Return the first step at which so many epochs have been read.

    Raises:
        ConfigError: The shards are still being made, so nobody knows yet.
    """
    store = Store(config.shards)
    if not store.exists("manifest.json"):
        raise ConfigError(
            f"--epochs needs shards that are there, and {config.shards} are still being made. Wait for "
            "them, or give --max-steps."
        )
    manifest = load_manifest(store)
    rows = ShardSet(store, "train", manifest)
    packing = load_packing(store, rows, "train", manifest.fingerprint, config.seq_len, config.seed)
    return max(1, math.ceil(epochs * packing.num_sequences / config.global_batch_size))
