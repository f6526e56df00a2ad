"""
    python launch/finetune.py --nodes 1 --gpus 4
    python launch/finetune.py --run my-run --shards shards/alpaca --nodes 2 --gpus 4 --time 4:00:00
    python launch/finetune.py --run my-run --max-steps 4000 --dry-run

Fine-tunes a model on a shard set, on Slurm where there is one. Give the same run name again and it
goes on where it stopped; if it is still training, you are told.

Flags: flags/finetune.py; work: training/start.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.finetune import Finetune
from launch.flags.site import parse_on_site


def main() -> int:
    flags = parse_on_site(Finetune, sys.argv[1:], usage=__doc__)
    from launch.training.start import finetune

    return finetune(flags, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
