"""
    python launch/preprocess.py --source builtin
    python launch/preprocess.py --source vicgalle/alpaca-gpt4 --out shards/alpaca --num-tasks 16
    python launch/preprocess.py --source "rows/*.jsonl" --out shards/mine --skip-bad-rows

Turns a dataset into tokenized shards.

Flags: flags/preprocess.py; work: arrays/shards.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from jobs.environment import loading
from launch.console.lines import guarded
from launch.flags.preprocess import Preprocess
from launch.flags.site import parse_on_site


def main() -> int:
    flags = parse_on_site(Preprocess, sys.argv[1:], usage=__doc__)
    with loading():
        from launch.arrays.shards import prepare

    return prepare(flags, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
