"""What can be typed after launch/logs.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from launch.flags.values import PATH


@dataclass(frozen=True)
class Logs:
    """Print what a rank of a run has logged, over all attempts."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run."""
    follow: Annotated[bool, tyro.conf.arg(aliases=["-f"]), tyro.conf.FlagCreatePairsOff] = False
    """Go on until the run ends; Ctrl-C stops showing, not the run."""
    rank: int = 0
    """Whose log; rank 0 tells how the run goes, and has the batch script's words."""
    checkpoints: Annotated[str, PATH] = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""
