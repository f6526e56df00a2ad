"""What can be typed after launch/logs.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from launch.flags.run import Checkpoints, RunName, Runs


@dataclass(frozen=True)
class Logs:
    """Print what a rank of a run has logged, over all attempts."""

    run: RunName
    follow: Annotated[bool, tyro.conf.arg(aliases=["-f"]), tyro.conf.FlagCreatePairsOff] = False
    """Go on until the run ends; Ctrl-C stops showing, not the run."""
    rank: int = 0
    """Whose log; rank 0 tells how the run goes, and has the batch script's words."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None
