"""
From flags to the settings of a run: every default filled in, and the reason for each that depends
on the machine.

    config = settle(flags, places, "my-run", shape, machine)
    refuse_conflicts(config, stored)

What a person typed is taken as it is, or refused with the change that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from instruct_core.config import TrainConfig, identity_of
from instruct_core.errors import ConfigError, RunConflictError
from instruct_core.recipe import MICRO_BATCH_SIZE, LossOn, Precision, Recipe
from instruct_core.shape import Shape
from jobs.notify import is_url
from launch.cluster.machine import Machine
from launch.flags.finetune import Finetune, is_fork
from launch.flags.slurm import SlurmFlags
from launch.flags.typed import difference
from launch.training.notification import HAD_URL

SPARES_MEMORY = ("activation_checkpointing", "shard")  # settings that each launch may choose anew


class Places(NamedTuple):
    """Where a run reads and writes, as absolute paths or URLs; which step `init` is, and its hash."""

    shards: str
    init: str
    checkpoints: str
    runs: str
    init_step: int | None = None
    init_xxh3: str = ""


def settle(
    flags: Finetune,
    places: Places,
    run: str,
    shape: Shape,
    machine: Machine,
    has_template: bool = False,
) -> TrainConfig:
    """
    Return the settings of a run on such nodes; the shards' fingerprint is left to be filled in, and
    a micro-batch, activation checkpointing and sharding that were not typed to be fitted.

    Args:
        flags: What was typed, or what the run has.
        places: Where it reads and writes.
        run: Its name.
        shape: Of the model.
        machine: That it runs on.
        has_template: Whether the base brings a chat template, and so learnt answers before.

    Raises:
        ConfigError: Something does not fit the machine or the model; names the change that does.
    """
    recipe, gpus_here = flags.recipe, machine.num_gpus
    if recipe.seq_len > shape.max_seq_len:
        raise ConfigError(f"--seq-len must be at most {shape.max_seq_len}, got {recipe.seq_len}.")
    if 0 < gpus_here < flags.gpus:
        raise ConfigError(
            f"--gpus must be at most {gpus_here} on {machine.name}, got {flags.gpus}. "
            f"Use --gpus {gpus_here}."
        )
    low, peak = recipe.min_learning_rate, recipe.peak_learning_rate
    by_base: LossOn = "response" if has_template else "all"
    fast: Precision = "bf16" if gpus_here and machine.has_bf16 else "fp32"
    chosen = {
        "decay_steps": recipe.decay_steps or recipe.max_steps,
        "learning_rate": peak,
        "loss_on": by_base if recipe.loss_on == "auto" else recipe.loss_on,
        "min_learning_rate": peak / 10 if low is None else low,
        "precision": fast if recipe.precision == "auto" else recipe.precision,
        "micro_batch_size": recipe.micro_batch_size or MICRO_BATCH_SIZE,
    }
    return TrainConfig(
        run=run,
        model=flags.model or ("gpt2" if places.init == "random" else ""),
        data_fingerprint="",
        keep_optimizer=flags.keep_optimizer,
        **places._asdict(),
        **recipe.values | chosen,
    )


def open_settings(recipe: Recipe) -> list[str]:
    """Return the settings that a recipe leaves to the launcher to choose."""
    may_be_open = [
        "decay_steps",
        "learning_rate",
        "loss_on",
        "min_learning_rate",
        "precision",
        "micro_batch_size",
        *SPARES_MEMORY,
    ]
    if recipe.lora is not None:
        may_be_open += ["lora_alpha", "lora_targets"]
    return [name for name in may_be_open if getattr(recipe, name) in (None, "auto")]


def resumed_flags(stored: TrainConfig, asked: Mapping[str, Any]) -> Finetune:
    """
    Return the flags that a stored run stands for: the defaults of a resume.

    Args:
        stored: Its settings.
        asked: What it asked for last time, as `asked_of` gives it.
    """
    slurm = {**asked.get("slurm", {}), "after": None}  # waited for already
    typed = {
        "micro_batch_size": asked.get("micro_batch_size", stored.micro_batch_size),
    } | {name: asked.get(name, "auto") for name in SPARES_MEMORY}
    return Finetune(
        run=stored.run,
        shards=stored.shards,
        init=asked.get("init", stored.init),
        keep_optimizer=stored.keep_optimizer,
        model=stored.model or None,
        checkpoints=stored.checkpoints,
        runs=stored.runs,
        recipe=Recipe(**stored.values | typed),
        nodes=int(asked.get("nodes", 1)),
        gpus=int(asked.get("gpus", 1)),
        spare_nodes=int(asked.get("spare_nodes", 0)),
        slurm=SlurmFlags.of(slurm),
        notify=asked.get("notify"),
    )


def asked_of(flags: Finetune) -> dict[str, Any]:
    """
    Return what a run asks the cluster for, its micro-batch and what spares memory if typed: all may
    change later; and the run that it begins with, as typed.
    """
    rare: dict[str, Any] = {"init": flags.init} if is_fork(flags.init) else {}
    typed = {name: getattr(flags.recipe, name) for name in SPARES_MEMORY}
    rare |= {name: value for name, value in typed.items() if value != "auto"}
    rare |= {HAD_URL: True} if is_url(flags.notify or "") else {}
    return rare | {
        "nodes": flags.nodes,
        "gpus": flags.gpus,
        "spare_nodes": flags.spare_nodes,
        "micro_batch_size": flags.recipe.micro_batch_size,
        "slurm": asdict(flags.slurm),
        "notify": None if is_url(flags.notify or "") else flags.notify,  # a URL may be a secret
    }


def refuse_conflicts(config: TrainConfig, stored: TrainConfig) -> None:
    """
    Refuse settings that would change what a run ends with.

    Raises:
        RunConflictError: Names each setting, the run's value and the typed one.
    """
    now, before = (identity_of(c) | {"init": c.init} for c in (config, stored))
    # What follows from a flag that differs is not named beside it: nobody typed it.
    follow = [name for name in ("init", "lora") if now.get(name) != before.get(name)]
    derived = tuple(f"{name}_" for name in follow if name == "init" or before.get(name) is None)
    differing = [
        _difference(name, before.get(name), now.get(name))
        for name in before | now
        if now.get(name) != before.get(name) and not name.startswith(derived)
    ]
    if differing:
        raise RunConflictError(
            f"Run {config.run} cannot go on with other settings: {'; '.join(differing)}. "
            "Leave them out, or begin another run from its newest step: --run NAME --init "
            f"run:{config.run}."
        )
    if config.max_steps < stored.max_steps:
        raise RunConflictError(
            f"Run {config.run} was begun for --max-steps {stored.max_steps}, got {config.max_steps}. "
            "It can only grow: leave it out, or end the run where it is (launch/control.py stop)."
        )


def _difference(name: str, before: Any, now: Any) -> str:
    if name == "data_fingerprint":
        return f"--shards has other data (fingerprint {now[:12]}, not {before[:12]})"
    if name == "init_xxh3":
        return f"--init has other weights (xxh3 {str(now)[:12]}, not {str(before)[:12]})"
    return difference(name, before, now)
