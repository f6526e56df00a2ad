"""
From flags to the settings of a run: defaults found on this machine, and nothing chosen in silence.

    config = resolve(flags, places, "my-run", shape)

Each default that depends on what is here is said in one line. What a person typed is taken as it
is, or refused with the change that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from instruct_core.config import IDENTITY, ModelConfig, TrainConfig
from instruct_core.errors import ConfigError, RunConflictError
from launch.cluster.machine import Machine
from launch.flags.finetune import Finetune
from launch.flags.slurm import SlurmFlags
from launch.training.fit import RECIPE_MICRO_BATCH_SIZE, fit_cpu


class Places(NamedTuple):
    """Where a run reads and writes, as absolute paths or URLs."""

    shards: str
    init: str
    checkpoints: str
    runs: str


def resolve(
    flags: Finetune, places: Places, run: str, shape: ModelConfig, machine: Machine
) -> TrainConfig:
    """
    Return the settings of a run on such nodes; the shards' fingerprint is left to be filled in.

    Raises:
        ConfigError: Something does not fit the machine or the model; names the change that does.
    """
    model = flags.model or ("gpt2" if places.init == "random" else "")
    if flags.seq_len > shape.max_seq_len:
        raise ConfigError(f"--seq-len must be at most {shape.max_seq_len}, got {flags.seq_len}.")
    gpus_here = machine.num_gpus
    if 0 < gpus_here < flags.gpus:
        raise ConfigError(
            f"--gpus must be at most {gpus_here} on {machine.name}, got {flags.gpus}. "
            f"Use --gpus {gpus_here}."
        )
    precision = flags.precision
    if precision == "auto":
        precision = "bf16" if gpus_here else "fp32"
    if gpus_here:
        micro_batch_size = flags.micro_batch_size or RECIPE_MICRO_BATCH_SIZE
    else:
        micro_batch_size = fit_cpu(flags, shape, machine)
    config = TrainConfig(
        run=run,
        shards=places.shards,
        checkpoints=places.checkpoints,
        runs=places.runs,
        init=places.init,
        model=model,
        data_fingerprint="",
        max_steps=flags.max_steps,
        decay_steps=flags.decay_steps or flags.max_steps,
        seq_len=flags.seq_len,
        micro_batch_size=micro_batch_size,
        tokens_per_step=flags.tokens_per_step,
        learning_rate=flags.learning_rate,
        min_learning_rate=(
            flags.learning_rate / 10 if flags.min_learning_rate is None else flags.min_learning_rate
        ),
        warmup_steps=flags.warmup_steps,
        weight_decay=flags.weight_decay,
        beta1=flags.beta1,
        beta2=flags.beta2,
        epsilon=flags.epsilon,
        clip=flags.clip,
        dropout=flags.dropout,
        loss_on=flags.loss_on,
        precision=precision,
        seed=flags.seed,
        eval_every=flags.eval_every,
        save_every=flags.save_every,
        save_every_minutes=flags.save_every_minutes,
        async_save=flags.async_save,
        max_unsaved_minutes=flags.max_unsaved_minutes,
        keep_checkpoints=flags.keep_checkpoints,
        keep_every=flags.keep_every,
        compile=flags.compile,
        deterministic=flags.deterministic,
        record_samples=flags.record_samples,
    )
    config.grad_accum_steps(flags.nodes * flags.gpus)  # raises with the change that fits
    return config


def resumed_flags(stored: TrainConfig, asked: Mapping[str, Any]) -> Finetune:
    """
    Return the flags that a stored run stands for: the defaults of a resume.

    Args:
        stored: Its settings.
        asked: What it asked for last time, as `asked_of` gives it.
    """
    names = Finetune.__dataclass_fields__.keys() & TrainConfig.__dataclass_fields__.keys()
    values = {name: getattr(stored, name) for name in sorted(names)}
    slurm = {
        k: v for k, v in asked.get("slurm", {}).items() if k in SlurmFlags.__dataclass_fields__
    }
    return Finetune(
        **values | {"model": stored.model or None},
        nodes=int(asked.get("nodes", 1)),
        gpus=int(asked.get("gpus", 1)),
        slurm=SlurmFlags(**slurm),
    )


def asked_of(flags: Finetune) -> dict[str, Any]:
    """Return what a run asks the cluster for: it may differ at every resume."""
    slurm = asdict(flags.slurm) | {"after": None}  # waited for already
    return {"nodes": flags.nodes, "gpus": flags.gpus, "slurm": slurm}


def refuse_conflicts(config: TrainConfig, stored: TrainConfig) -> None:
    """
    Refuse settings that would change what a run ends with.

    Raises:
        RunConflictError: Names each setting, the run's value and the typed one.
    """
    differing = [n for n in (*IDENTITY, "init") if getattr(config, n) != getattr(stored, n)]
    if differing:
        pairs = [f"{n} is {getattr(stored, n)}, got {getattr(config, n)}" for n in differing]
        raise RunConflictError(
            f"Run {config.run} cannot go on with other settings: {'; '.join(pairs)}. "
            "Leave them away, or begin another --run."
        )
    if config.max_steps < stored.max_steps:
        raise RunConflictError(
            f"Run {config.run} was begun for --max-steps {stored.max_steps}, got {config.max_steps}. "
            "It can only grow."
        )
