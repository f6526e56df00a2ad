"""What can be typed after launch/logs.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from launch.flags.run import Checkpoints, Runs
from launch.flags.values import PATH


@dataclass(frozen=True)
class Logs:
    """Print what a rank of a run has logged, over all attempts; or the tasks of an array."""

    run: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="RUN",
            help="Name of the run; or name or place of a shard set, or of answers, that an array makes.",
        ),
    ]
    follow: Annotated[bool, tyro.conf.arg(aliases=["-f"]), tyro.conf.FlagCreatePairsOff] = False
    """Go on until the run ends; Ctrl-C stops showing, not the run."""
    rank: int = 0
    """Whose log; rank 0 tells how the run goes, and has the batch script's words."""
    task: int | None = None
    """Of an array: only this task (default: all, one after the other)."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None
    shards: Annotated[str, PATH] = "shards"
    """Folder with shard sets."""
