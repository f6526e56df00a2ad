"""
What a run starts from: its shards, its first weights and their shape, and the places it writes to.

    inputs = find_inputs(flags, run, stored=None, has_begun=False)
    inputs.places.shards, inputs.shape.num_parameters
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from instruct_core.checkpoints.manifest import Manifest
from instruct_core.checkpoints.steps import (
    SPARE_BYTES,
    committed_steps,
    read_manifest,
    step_name,
    steps_of,
)
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.tokenizer_files import GPT2
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.shape import Shape
from instruct_core.storage.store import Store
from launch.flags.finetune import Finetune, is_fork
from launch.runs.hub import found_weights
from launch.runs.model import Weights, inspect_weights
from launch.runs.places import absolute, check_folder
from launch.runs.run import Run
from launch.runs.shard_sets import find_shards, fingerprint_of, is_being_made
from launch.training.adapters import Adapters, adapters_of_run, new_adapters
from launch.training.epochs import steps_of_epochs
from launch.training.fit import SAVED_BYTES_PER_PARAMETER
from launch.training.fork import forked_step
from launch.training.settings import Places, refuse_conflicts
from launch.training.vocabulary import Vocabulary, settle_vocabulary

SEED_CHECKPOINT = "checkpoints/best_model.pt"


class Inputs(NamedTuple):
    """What a run starts from."""

    places: Places
    shape: Shape
    init: str  # in words
    has_shards: bool  # False where builtin is to be prepared first
    tokenizer: str  # to prepare it with
    adapters: Adapters
    has_template: bool  # the base brings a chat template; of a run that has saved nobody asks


def find_inputs(flags: Finetune, run: Run, stored: TrainConfig | None, has_begun: bool) -> Inputs:
    """
    Return what a run starts from; nothing is written, and weights are loaded once to see.

    Args:
        flags: With the run's own values where none were typed.
        run: That is to begin, or to go on.
        stored: Its settings, if it is there.
        has_begun: It has saved, so it does not need what it started from any more.

    Raises:
        MissingError: Shards or weights that were typed are not there.
        ConfigError: Weights cannot be loaded, or do not fit --model or --seq-len.
    """
    shards = find_shards(flags.shards, flags.slurm.after)
    if stored is not None and has_begun and _names_stored(flags.init, stored, run):
        init = Init(stored.init, flags.init or stored.init, stored.init_step, stored.init_xxh3)
    elif stored is not None and flags.init == stored.init == "random":
        init = Init("random", "random weights")
    elif is_fork(flags.init):
        step = forked_step(str(flags.init), run)
        init = Init(step.place, step.words, step.step)
    else:
        init = find_init(flags.init)
    found = Store(shards)
    has_shards = found.exists("manifest.json") or is_being_made(found, flags.slurm.after)
    if stored is not None and has_begun:
        manifest = newest_manifest(run.store)
        settled = Vocabulary(PRESETS["gpt2"] if manifest is None else manifest.model, GPT2)
        adapters = adapters_of_run(manifest, stored)
    else:
        weights = weights_of_init(init.place, flags)
        settled = settle_vocabulary(weights.shape, shards, has_shards, init.place)
        adapters = new_adapters(flags.recipe, weights)
        if init.step is not None or adapters.number:
            init = init._replace(xxh3=weights.xxh3)
    places = Places(shards, init.place, flags.checkpoints, flags.runs, init.step, init.xxh3)
    return Inputs(
        places, settled.shape, init.words, has_shards, settled.tokenizer, adapters,
        settled.has_template,
    )  # fmt: skip


def with_data(
    config: TrainConfig, begun: TrainConfig | None, can_wait: bool, flags: Finetune
) -> TrainConfig:
    """
    Return the settings with the fingerprint of their shards, which a run that has saved must go on with,
    and with the steps of the epochs that were asked for.

    Args:
        config: All other settings.
        begun: Those that it has saved with, if it has.
        can_wait: Whether the job can wait for shards that are being made.
        flags: What was typed.

    Raises:
        RunConflictError: It has saved with other settings.
        ConfigError: The shards are still being made, and the job cannot wait, or --epochs cannot.
    """
    config = replace(config, data_fingerprint=fingerprint_of(config.shards, can_wait))
    if flags.epochs is not None:
        steps = steps_of_epochs(flags.epochs, config)
        decay = flags.recipe.decay_steps or steps
        config = replace(config, max_steps=steps, decay_steps=decay)
    if begun is not None:
        refuse_conflicts(config, begun)
    return config


class Init(NamedTuple):
    """Weights to start from: "random" or an absolute place; and the same in words."""

    place: str
    words: str
    step: int | None = None  # of another run
    xxh3: str = ""  # of the weights, where the run is held to them


def _names_stored(typed: str | None, stored: TrainConfig, run: Run) -> bool:
    """Return True if --init is what the run was begun with, which may have gone on meanwhile."""
    if is_fork(typed):
        return bool(typed == run.asked.get("init"))
    return absolute(typed or "") == stored.init


def find_init(typed: str | None) -> Init:
    """
    Return the weights to start from.

    Raises:
        MissingError: The typed ones are not there.
    """
    if typed is None:
        if Path(SEED_CHECKPOINT).exists():
            return Init(absolute(SEED_CHECKPOINT), SEED_CHECKPOINT)
        return Init("random", f"random weights (no {SEED_CHECKPOINT} here)")
    if typed == "random":
        return Init(typed, "random weights")
    place, repo = found_weights(typed)
    return Init(place, f"{repo} of the Hugging Face Hub" if repo else typed)


def check_places(config: TrainConfig, shape: Shape, adapters: int = 0) -> None:
    """
    Refuse places on a disk that nobody can write to, or without room for a checkpoint.

    Raises:
        ConfigError: Names the flag, the place and the folder that is in the way.
    """
    checkpoints, runs = (Store(place) / config.run for place in (config.checkpoints, config.runs))
    if checkpoints.is_local:
        trained = adapters or shape.num_parameters
        needed = SAVED_BYTES_PER_PARAMETER * trained + SPARE_BYTES
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


def weights_of_init(init: str, flags: Finetune) -> Weights:
    """
    Return the shape and the hash of the weights that a new run starts from, which are loaded to see.

    Raises:
        ConfigError: They cannot be loaded, or do not fit --model or --seq-len.
    """
    model = flags.model or ("gpt2" if init == "random" else "")
    if init == "random":  # it takes two seconds to look
        return Weights(PRESETS[model], "", {})
    return inspect_weights(init, model, flags.recipe.seq_len)


def newest_manifest(store: Store) -> Manifest | None:
    """Return a run's newest manifest that can be read: what it trains is the same in all of them."""
    for step in reversed(committed_steps(store)):
        try:
            return read_manifest(store, step)
        except (CorruptFileError, FileNotFoundError):
            continue
    return None
