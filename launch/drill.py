"""
    python launch/drill.py
    python launch/drill.py --nodes 2 --gpus 4 --partition NAME
    python launch/drill.py --random-faults 10 --seed 7 --init checkpoints/best_model.pt

Proves the main promise where you are: trains a few steps twice, once undisturbed and once hit by
faults, and compares the ends bit by bit. Exit code 0 only when they are equal.

Flags: flags/drill.py; work: drills/drill.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.drill import Drill, check_drill_flags
from launch.flags.site import parse_on_site


def main() -> int:
    flags = parse_on_site(Drill, sys.argv[1:], usage=__doc__)
    check_drill_flags(flags)
    from launch.drills.drill import drill

    return drill(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
