"""
    make demo
    python launch/demo.py

The main job in five to ten minutes on two cores, with a warning on the way: prepare, train, be warned,
come back, finish, answer. It types the commands that a person would type, and prints each.

Flags: flags/demo.py; work: training/demo.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.demo import Demo
from launch.flags.parse import parse_flags


def main() -> int:
    parse_flags(Demo, sys.argv[1:], usage=__doc__)
    from launch.training.demo import demo

    return demo()


if __name__ == "__main__":
    sys.exit(guarded(main))
