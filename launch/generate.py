"""
    python launch/generate.py --run my-run --source questions.jsonl --out answers.jsonl --num-tasks 8
    python launch/generate.py --checkpoint my-model --source q.csv --out a.jsonl --temperature 0.7

Answers every question of a file, as an array of tasks.

Flags: flags/generate.py; work: arrays/answers.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.generate import Generate
from launch.flags.site import parse_on_site


def main() -> int:
    flags = parse_on_site(Generate, sys.argv[1:], usage=__doc__)
    from launch.arrays.answers import answer_file

    return answer_file(flags, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
