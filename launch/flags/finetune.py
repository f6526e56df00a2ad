"""What can be typed after launch/finetune.py, and which values make sense nowhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from instruct_core.config import PRESETS
from instruct_core.errors import ConfigError
from launch.flags.help import RARE
from launch.flags.parse import Cluster, check_name
from launch.flags.slurm import GPUS, SlurmFlags, check_slurm_flags
from launch.flags.values import PATH


@dataclass(frozen=True)
class Finetune:
    """
    Fine-tune GPT-2 on a shard set, and keep going whatever happens.

    The same run name again resumes it, or attaches to it while it is training. Flags that are not
    typed then keep the run's values. On Slurm the job is queued and the command returns; scancel
    saves and stops. Without Slurm it follows the run: Ctrl-C saves and stops, twice kills.
    """

    nodes: int = 1
    """Machines to train on; more than one needs Slurm."""
    gpus: Annotated[int, GPUS] = 1
    """Ranks per machine: one a GPU, or that many CPU ranks on a machine without GPUs."""
    run: str | None = None
    """Name of the run (default: model and shards, as in gpt2-alpaca)."""
    shards: Annotated[str | None, PATH] = None
    """Path or URL of a shard set (default: shards/alpaca, else shards/builtin, made if missing)."""
    init: Annotated[str | None, PATH] = None
    """Weights to start from: "random", a Hugging Face folder, a step folder or a .pt file
    (default: checkpoints/best_model.pt where it is, else random)."""
    model: str | None = None
    """gpt2, gpt2-medium, gpt2-large, gpt2-xl, small-demo or tiny (default: that of --init, else
    gpt2)."""
    checkpoints: Annotated[str, PATH] = "checkpoints_instruct"
    """Path or URL for checkpoints; each run has a folder in it."""
    runs: Annotated[str, PATH] = "runs_instruct"
    """Path or URL for TensorBoard events and the ledger; each run has a folder in it."""
    max_steps: int = 2000
    """Optimizer steps; a finished run goes on when this grows."""
    learning_rate: float = 2e-5
    """Peak learning rate, reached after the warmup."""
    min_learning_rate: float | None = None
    """Where the cosine ends (default: a tenth of the peak)."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    seq_len: int = 1024
    """Tokens per packed sequence."""
    micro_batch_size: int | None = None
    """Sequences per rank and forward (default: 8, or what fits a machine without GPUs)."""
    tokens_per_step: int = 65536
    """Tokens per optimizer step over all ranks; gradient accumulation follows from it."""
    dropout: float = 0.0
    """Probability of dropping an activation, 0..1."""
    loss_on: Literal["all", "response"] = "all"
    """Learn all tokens, or only those of the response."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products (auto: bf16 on GPUs, fp32 on CPUs); weights are always fp32."""
    seed: int = 1337
    """Of weights, order and dropout."""
    eval_every: int = 100
    """Steps between evaluations on the whole validation split."""
    save_every: int = 100
    """Steps between checkpoints; a run killed without warning loses at most so many."""
    save_every_minutes: float | None = None
    """Save as well whenever so many minutes have gone since the last save began."""
    async_save: bool = True
    """Train on while a checkpoint is written; costs host memory for a copy of the state."""
    keep_checkpoints: int = 3
    """Newest checkpoints that remain, beside the best one by validation loss."""
    compile: bool = False
    """Compile the model with torch.compile: slower to start, faster to run."""
    cluster: Cluster = "auto"
    """Where the job runs (auto: Slurm where sbatch answers, else this machine)."""
    follow: bool = False
    """On Slurm: show the run's events and steps until it ends; Ctrl-C only stops showing."""
    dry_run: bool = False
    """Show what would run, with the batch script on Slurm, and stop."""
    slurm: Annotated[SlurmFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=SlurmFlags)
    """What the job asks of Slurm."""
    keep_every: Annotated[int, RARE] = 0
    """Checkpoints of steps divisible by this stay for good (0: none do)."""
    max_unsaved_minutes: Annotated[float, RARE] = 60.0
    """While saves fail the run goes on, and ends without a good checkpoint for so many minutes."""
    decay_steps: Annotated[int | None, RARE] = None
    """Step at which the cosine ends (default: --max-steps of the first launch)."""
    weight_decay: Annotated[float, RARE] = 0.01
    """Of matrices."""
    beta1: Annotated[float, RARE] = 0.9
    """AdamW."""
    beta2: Annotated[float, RARE] = 0.95
    """AdamW."""
    epsilon: Annotated[float, RARE] = 1e-8
    """AdamW."""
    clip: Annotated[float, RARE] = 1.0
    """Largest norm of the gradient."""
    deterministic: Annotated[bool, RARE] = True
    """Use deterministic algorithms on GPUs, without which a resume is not exact to the bit."""
    record_samples: Annotated[bool, RARE] = False
    """Write which samples every rank reads at every step into the run's folder."""


AT_LEAST_ONE = (
    "nodes", "gpus", "max_steps", "tokens_per_step", "eval_every", "save_every", "keep_checkpoints",
)  # fmt: skip


def check_flags(flags: Finetune) -> None:
    """
    Refuse values that make sense nowhere, before anything is read.

    Raises:
        ConfigError: Names the flag, the value and what it must be.
    """
    check_slurm_flags(flags.slurm)
    for name in AT_LEAST_ONE:
        _require(getattr(flags, name) >= 1, name, getattr(flags, name), "at least 1")
    for name in ("micro_batch_size", "decay_steps"):
        value = getattr(flags, name)
        _require(value is None or value >= 1, name, value, "at least 1")
    for name in ("learning_rate", "epsilon", "clip"):
        _require(0 < getattr(flags, name) < math.inf, name, getattr(flags, name), "more than 0")
    if flags.learning_rate > 1:
        raise ConfigError(
            f"--learning-rate must be at most 1, got {flags.learning_rate}. For 0.00002 type 2e-5."
        )
    for name in ("save_every_minutes", "max_unsaved_minutes"):
        value = getattr(flags, name)
        _require(value is None or 0 < value < math.inf, name, value, "more than 0")
    for name in ("warmup_steps", "weight_decay", "seed", "keep_every"):
        _require(getattr(flags, name) >= 0, name, getattr(flags, name), "at least 0")
    for name in ("dropout", "beta1", "beta2"):
        value = getattr(flags, name)
        _require(0 <= value < 1, name, value, "from 0 up to but not including 1")
    low = flags.min_learning_rate
    _require(
        low is None or 0 <= low <= flags.learning_rate,
        "min_learning_rate",
        low,
        f"between 0 and --learning-rate {flags.learning_rate}",
    )
    if flags.model is not None and flags.model not in PRESETS:
        raise ConfigError(f"--model must be one of {', '.join(PRESETS)}, got {flags.model}.")
    _require(flags.seq_len >= 2, "seq_len", flags.seq_len, "at least 2")
    _require(flags.seed < 2**63, "seed", flags.seed, "less than 2**63")
    if flags.run is not None:
        check_name(flags.run)


def _require(fits: bool, name: str, value: object, rule: str) -> None:
    if not fits:
        raise ConfigError(f"--{name.replace('_', '-')} must be {rule}, got {value}.")
