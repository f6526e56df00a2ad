"""
    python launch/sweep.py lr --over learning-rate=1e-5,3e-5,1e-4 --shards shards/alpaca --max-steps 500
    python launch/sweep.py lr

Trains a run for each combination of values, as launch/finetune.py does, and says which came to the
least validation loss; with the name alone it compares what is there.

Flags: flags/sweep.py; work: training/sweep.py, runs/results.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.sweep import parse_sweep


def main() -> int:
    flags, runs, shared = parse_sweep(sys.argv[1:], usage=__doc__)
    from launch.training.sweep import sweep

    return sweep(flags, runs, shared)


if __name__ == "__main__":
    sys.exit(guarded(main))
