"""What can be typed after launch/status.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from launch.flags.run import Checkpoints, Runs
from launch.flags.values import PATH


@dataclass(frozen=True)
class Status:
    """Show every run and array at a glance, or one run with all its attempts."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """Name of a run (default: all)."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None
    shards: Annotated[str, PATH] = "shards"
    """Path or URL of a folder with shard sets."""
    json: bool = False
    """Print one JSON document instead: see docs/formats.md."""
    watch: bool = False
    """Show it again every few seconds, until Ctrl-C."""
    diff: str | None = None
    """Another run: show how it differs in settings, versions, data and results."""
