"""
    python launch/evaluate.py
    python launch/evaluate.py --run my-run
    python launch/evaluate.py --checkpoint my-model --base path/to/gpt2 --shards shards/mine --out mine

What training did to a model: perplexity over the whole validation split, before and after, and
answers to its first rows beside the answers they should have been. Writes a report as Markdown,
HTML and JSON.

Flags: flags/evaluate.py; work: evaluation/.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.evaluate import Evaluate
from launch.flags.parse import parse_flags


def main() -> int:
    flags = parse_flags(Evaluate, sys.argv[1:], usage=__doc__)
    from launch.evaluation.measure import evaluate

    return evaluate(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
