"""
    python launch/preprocess.py --source vicgalle/alpaca-gpt4 --out shards/alpaca --num-tasks 16

Turns a dataset into tokenized shards.

Flags: flags/preprocess.py; work: arrays/shards.py.
"""

from __future__ import annotations

import sys

from launch.console.lines import guarded
from launch.flags.parse import parse_flags
from launch.flags.preprocess import Preprocess


def main() -> int:
    flags = parse_flags(Preprocess, sys.argv[1:])
    from launch.arrays.shards import prepare

    return prepare(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
