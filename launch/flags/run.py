"""
Which run, which model: flags that several commands share. No heavy imports.

    model: Annotated[ModelFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelFlags)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from instruct_core.errors import ConfigError
from instruct_core.recipe import Kept
from launch.flags.parse import check_name
from launch.flags.values import PATH, required, step_word

RunName = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Name of the run.")
]
Checkpoints = Annotated[
    str, tyro.conf.arg(metavar="PATH", help="Path or URL where runs keep their checkpoints.")
]
Step = Annotated[
    str | int,
    required("newest|best|N", "newest, best or the number of a step", step_word),
    tyro.conf.arg(
        help="Which step of the run: the newest one that verifies, the best one by validation loss, or "
        "this one."
    ),
]
Runs = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="PATH",
        help="Path or URL where runs keep their ledger and curves (default: as each run knows it).",
    ),
]


@dataclass(frozen=True)
class ModelFlags:
    """A checkpoint of a run, or a model that lies anywhere."""

    run: str | None = None
    """Name of the run whose checkpoint is taken (default: the run that saved last)."""
    step: Step = "newest"
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None
    checkpoint: Annotated[str | None, PATH] = None
    """Path or URL of a step folder, a Hugging Face folder or a .pt file, or a Hugging Face id, instead of
    a run."""
    weights: Kept = "fp32"
    """Numbers in which a model keeps its weights while it answers. fp16, and bf16 on GPUs since Ampere,
    take half of the memory, answer quicker, and round each to 11 or 8 bits: see docs/performance.md."""


def check_model_flags(flags: ModelFlags) -> None:
    """
    Refuse two models, and a run's name that leaves its folder.

    Raises:
        ConfigError: Names the flag, the value and what it must be.
    """
    if flags.run is not None:
        check_name(flags.run, "--run")
    if flags.run is not None and flags.checkpoint is not None:
        raise ConfigError("--run and --checkpoint name two models. Give one of them.")
    if flags.step != "newest" and flags.checkpoint is not None:
        raise ConfigError(
            f"--step {flags.step} is of a run, and --checkpoint {flags.checkpoint} is one model. Give "
            "--run instead, or leave --step out."
        )
