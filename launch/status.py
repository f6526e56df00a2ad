"""
    python launch/status.py
    python launch/status.py my-run

Every run, and the arrays that make shards and, in this folder, answers: Slurm's state, step,
attempt, last save and what it waits for. Needs no accounting. The work is in statuses.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from launch.console import guarded, parse_flags


@dataclass(frozen=True)
class Status:
    """Show every run and array at a glance, or one run with all its attempts."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """Name of a run (default: all)."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""
    shards: str = "shards"
    """Folder with shard sets."""


def main() -> int:
    flags = parse_flags(Status, sys.argv[1:])
    from launch.statuses import show_status

    return show_status(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
