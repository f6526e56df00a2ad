"""What can be typed after launch/finetune.py, and which values make sense nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from instruct_core.config import PRESETS
from instruct_core.errors import ConfigError
from instruct_core.recipe import Recipe, check_rules
from launch.flags.parse import Cluster, check_counts, check_name
from launch.flags.slurm import GPUS, SlurmFlags, check_slurm_flags
from launch.flags.values import PATH, optional

MOST_EPOCHS = 1_000_000  # more is a slip
FORK = "run:"  # what --init begins with where it names a run


@dataclass(frozen=True)
class Finetune:
    """
    Fine-tune GPT-2, or a Llama, Mistral or Qwen, on a shard set, and keep going whatever happens.

    The same run name again resumes it, or attaches to it while it is training. Flags that are not
    typed then keep the run's values; a run on its way takes no others. On Slurm the job is queued
    and the command returns; scancel saves and stops. Without Slurm it follows the run: Ctrl-C saves
    and stops, twice kills.
    """

    nodes: int = 1
    """Machines to train on; more than one needs Slurm."""
    gpus: Annotated[int, GPUS] = 1
    """Ranks per machine: one a GPU, or that many CPU ranks on a machine without GPUs."""
    spare_nodes: int = 0
    """On Slurm: nodes to have beside --nodes, idle until one of those fails twice in a row: then the run
    goes on without it, and without the queue."""
    run: str | None = None
    """Name of the run (default: model and shards, as in gpt2-alpaca)."""
    shards: Annotated[str | None, PATH] = None
    """Path or URL of a shard set (default: shards/alpaca, else shards/builtin, made if missing)."""
    init: Annotated[str | None, PATH] = None
    """Weights to start from: "random", a Hugging Face folder or id, a step folder, a .pt file, or
    run:NAME[@STEP|@best] for a step of another run in --checkpoints (default:
    checkpoints/best_model.pt where it is, else random)."""
    keep_optimizer: bool = False
    """With --init run:NAME, begin with the moments of its optimizer too."""
    model: str | None = None
    """gpt2, gpt2-medium, gpt2-large, gpt2-xl, small-demo, tiny or tiny-llama (default: that of
    --init, else gpt2)."""
    checkpoints: Annotated[str, PATH] = "checkpoints_instruct"
    """Path or URL for checkpoints; each run has a folder in it."""
    runs: Annotated[str, PATH] = "runs_instruct"
    """Path or URL for TensorBoard events and the ledger; each run has a folder in it."""
    epochs: float | None = None
    """Passes over the training data, in place of --max-steps."""
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = field(default_factory=Recipe)
    """How the model is trained."""
    cluster: Cluster = "auto"
    """Where the job runs (auto: Slurm where there is sbatch, else this machine; debug: in the launcher's
    own process, one task, so that breakpoint() works)."""
    follow: bool = False
    """On Slurm: show the run's events and steps until it ends; Ctrl-C only stops showing."""
    notify: Annotated[
        str | None, optional("URL", "a URL, or a file of mode 0600 with one", str)
    ] = None
    """Where one JSON POST goes when the run is preempted, resumes, fails or finishes: a URL, or better a
    file of mode 0600 that holds it (default: INSTRUCT_CLUSTER_NOTIFY). A URL is kept nowhere."""
    dry_run: bool = False
    """Show what would run, with the batch script on Slurm, and stop."""
    slurm: Annotated[SlurmFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=SlurmFlags)
    """What the job asks of Slurm."""


def check_flags(flags: Finetune, is_whole: bool = True) -> None:
    """
    Refuse values that make sense nowhere, before anything is read.

    Args:
        flags: What was typed.
        is_whole: False where the rest may come from a run: then each is looked at by itself.

    Raises:
        ConfigError: Names the flag, the value and what it must be.
    """
    check_slurm_flags(flags.slurm)
    check_counts(flags, "nodes", "gpus")
    if flags.spare_nodes < 0:
        raise ConfigError(f"--spare-nodes must be at least 0, got {flags.spare_nodes}.")
    if flags.epochs is not None and not 0 < flags.epochs <= MOST_EPOCHS:
        raise ConfigError(
            f"--epochs must be more than 0 and at most {MOST_EPOCHS:,}, got "
            f"{format(flags.epochs, ',').removesuffix('.0')}."
        )
    check_rules(flags.recipe)
    check_model(flags.model)
    if flags.run is not None:
        check_name(flags.run, "--run")
    if not is_whole:
        return
    flags.recipe.check()
    if flags.keep_optimizer and not is_fork(flags.init):
        raise ConfigError(
            f"--keep-optimizer needs --init run:NAME, got {flags.init or 'none'}: only a run's step has "
            "moments. Leave it out, or name a run."
        )


def check_model(model: str | None) -> None:
    """Refuse a --model that nobody knows; raises ConfigError."""
    if model is not None and model not in PRESETS:
        raise ConfigError(f"--model must be one of {', '.join(PRESETS)}, got {model!r}.")


def is_fork(init: str | None) -> bool:
    """Return True for --init run:NAME, which is a step of another run."""
    return init is not None and init.startswith(FORK)
