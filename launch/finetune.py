"""
    python launch/finetune.py --nodes 1 --gpus 4

Fine-tunes GPT-2 on a shard set, on Slurm where there is one. Give the same run name again and it
goes on where it stopped; if it is still training, you are told. The work is in running.py; this
file is the flags, and imports nothing that would make --help slow.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from launch.console import RARE, Cluster, guarded, parse_flags
from launch.slurm_flags import SlurmFlags


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
    gpus: int = 1
    """Ranks per machine: one a GPU, or that many CPU ranks on a machine without GPUs."""
    run: str | None = None
    """Name of the run (default: model and shards, as in gpt2-alpaca)."""
    shards: str | None = None
    """Path or URL of a shard set (default: shards/alpaca, else shards/builtin, made if missing)."""
    init: str | None = None
    """Weights to start from: "random", a Hugging Face folder, a step folder or a .pt file
    (default: checkpoints/best_model.pt where it is, else random)."""
    model: str | None = None
    """gpt2, gpt2-medium, gpt2-large, gpt2-xl, small-demo or tiny (default: that of --init, else
    gpt2)."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL for checkpoints; each run has a folder in it."""
    runs: str = "runs_instruct"
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


def main() -> int:
    flags = parse_flags(Finetune, sys.argv[1:])
    from launch.running import finetune

    return finetune(flags, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
