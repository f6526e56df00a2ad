"""What can be typed after launch/doctor.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from launch.flags.run import Checkpoints
from launch.flags.slurm import SlurmFlags


@dataclass(frozen=True)
class Doctor:
    """
    Say what would fail before it is queued, a line a check, each with its fix.

    Looks at this machine, at Slurm where it is installed, and at the place of the checkpoints. Takes
    a few seconds, starts no job unless --deep is given, and leaves nothing behind. The exit code is 1
    where something would fail.
    """

    deep: bool = False
    """Have the idle nodes look as well, at each other and at the checkpoints: a job of a minute."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    write_site: bool = False
    """Write what was typed and found into a first profile of this site, whose values then stand for
    flags that nobody types."""
    trust: Annotated[str | None, tyro.conf.arg(metavar="NODE[,NODE]")] = None
    """Look at nothing; forget what these nodes have done, so that jobs use them again."""
    json: bool = False
    """Print one JSON document instead."""
    slurm: Annotated[SlurmFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=SlurmFlags)
    """What a job would ask of Slurm."""
