"""
Which run, which model: flags that several commands share. No heavy imports.

    model: Annotated[ModelFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelFlags)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from instruct_core.errors import ConfigError
from launch.flags.parse import check_name
from launch.flags.values import PATH

RunName = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Name of the run.")
]
Checkpoints = Annotated[
    str, tyro.conf.arg(metavar="PATH", help="Path or URL where runs keep their checkpoints.")
]


@dataclass(frozen=True)
class ModelFlags:
    """A run's newest checkpoint, or a model that lies anywhere."""

    run: str | None = None
    """Name of the run whose newest checkpoint that verifies is taken (default: the run that saved
    last)."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    checkpoint: Annotated[str | None, PATH] = None
    """Path or URL of a step folder, a Hugging Face folder or a .pt file, instead of a run."""


def check_model_flags(flags: ModelFlags) -> None:
    """
    Refuse two models, and a run's name that leaves its folder.

    Raises:
        ConfigError: Names the flag, the value and what it must be.
    """
    if flags.run is not None:
        check_name(flags.run)
    if flags.run is not None and flags.checkpoint is not None:
        raise ConfigError("--run and --checkpoint name two models. Give one of them.")
