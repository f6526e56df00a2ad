"""
    python launch/status.py
    python launch/status.py my-run

Every run, and the arrays that make shards and, in this folder, answers: Slurm's state, step,
attempt, last save and what it waits for. Needs no accounting.

Flags: flags/status.py; work: runs/overview.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.parse import parse_flags
from launch.flags.status import Status


def main() -> int:
    flags = parse_flags(Status, sys.argv[1:], usage=__doc__)
    from launch.runs.overview import show_status

    return show_status(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
