"""
What a run starts from: its shards, its first weights and their shape, and the places it writes to.

    shards = find_shards(None)
    init = find_init("checkpoints/best_model.pt")
"""

from __future__ import annotations

from pathlib import Path

from instruct_core.checkpoints.steps import (
    SPARE_BYTES,
    committed_steps,
    read_manifest,
    step_name,
    steps_of,
)
from instruct_core.config import PRESETS, ModelConfig, TrainConfig
from instruct_core.errors import ConfigError, CorruptFileError, MissingError
from instruct_core.storage.store import Store
from launch.cluster.slurm import running_array
from launch.console.lines import say
from launch.flags.finetune import Finetune
from launch.runs.model import inspect_weights
from launch.runs.places import absolute, check_folder, reachable
from launch.training.fit import SAVED_BYTES_PER_PARAMETER

SEED_CHECKPOINT = "checkpoints/best_model.pt"
PREFERRED_SHARDS = ("shards/alpaca", "shards/alpaca-gpt4", "shards/builtin")


def find_shards(typed: str | None, after: str | None = None) -> str:
    """
    Return the shard set to use; one that is not finished only for `builtin`, or while it is made.

    Raises:
        MissingError: The typed one is not there.
        ConfigError: None was typed, and there are several.
    """
    if typed is not None:
        store = Store(absolute(typed))
        being_made = after is not None or running_array(store) is not None
        with reachable("--shards", typed):
            there = store.exists("manifest.json") or (being_made and store.exists("plan.json"))
        if not there:
            raise MissingError(
                f"Shards {typed} are not there or not finished: no manifest.json in it. "
                f"Make them: python launch/preprocess.py --out {typed}"
            )
        return absolute(typed)
    for place in PREFERRED_SHARDS:
        if (Path(place) / "manifest.json").exists():
            return absolute(place)
    others = sorted(str(path.parent) for path in Path("shards").glob("*/manifest.json"))
    if len(others) > 1:
        raise ConfigError(f"--shards must name one of {', '.join(others)}: there are several.")
    if others:
        return absolute(others[0])
    return absolute(PREFERRED_SHARDS[-1])


def find_init(typed: str | None) -> str:
    """
    Return the weights to start from: "random" or an absolute place that is there.

    Raises:
        MissingError: The typed one is not there.
    """
    if typed is None:
        if Path(SEED_CHECKPOINT).exists():
            say(f"Init: {SEED_CHECKPOINT}")
            return absolute(SEED_CHECKPOINT)
        say(f"Init: random weights (no {SEED_CHECKPOINT} here)")
        return "random"
    if typed == "random":
        return typed
    folder, _, name = absolute(typed).rpartition("/")
    with reachable("--init", typed):
        there = Store(folder or "/").exists(name)
    if not there:
        raise MissingError(f"--init {typed} is not there. Give another path, or --init random.")
    return absolute(typed)


def check_places(config: TrainConfig, shape: ModelConfig) -> None:
    """
    Refuse places on a disk that nobody can write to, or without room for a checkpoint.

    Raises:
        ConfigError: Names the flag, the place and the folder that is in the way.
    """
    checkpoints, runs = (Store(place) / config.run for place in (config.checkpoints, config.runs))
    if checkpoints.is_local:
        needed = SAVED_BYTES_PER_PARAMETER * shape.num_parameters + SPARE_BYTES
        newest = committed_steps(checkpoints)[-1:]
        for step in steps_of(checkpoints):  # a full disk makes room by removing the others
            if step not in newest:
                needed -= sum(checkpoints.sizes(step_name(step)).values())
        check_folder("--checkpoints", config.checkpoints, checkpoints.local_path(""), needed)
    if runs.is_local:
        check_folder("--runs", config.runs, runs.local_path(""), 0)
    elif config.record_samples:
        raise ConfigError(
            f"--record-samples needs --runs on a disk, got {config.runs}: a line a step is appended."
        )


def shape_of_init(init: str, flags: Finetune) -> ModelConfig:
    """
    Return the shape of the weights that a new run starts from, which are loaded once to see.

    Raises:
        ConfigError: They cannot be loaded, or do not fit --model or --seq-len.
    """
    if init == "random":
        return PRESETS[flags.model or "gpt2"]
    return inspect_weights(init, flags.model or "", flags.seq_len).shape


def shape_of_run(store: Store) -> ModelConfig:
    """Return the shape of the model that a run trains, from its newest manifest that can be read."""
    for step in reversed(committed_steps(store)):
        try:
            return ModelConfig(**read_manifest(store, step)["model"])
        except (CorruptFileError, FileNotFoundError):
            continue
    return PRESETS["gpt2"]
