"""What can be typed after launch/report.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from launch.flags.run import Checkpoints, RunName, Runs
from launch.flags.values import PATH


@dataclass(frozen=True)
class Report:
    """Write one page about a run, which needs no other file and no network."""

    run: RunName
    out: Annotated[str | None, PATH] = None
    """Path or URL of the page; a page of this command that is there is replaced (default: beside the
    run's curves, runs_instruct/RUN/report.html)."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None
