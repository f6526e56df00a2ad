"""
    python launch/logs.py my-run
    python launch/logs.py my-run -f
    python launch/logs.py shards/builtin --task 3

One log of a run over all its attempts and jobs; -f goes on until the run ends, and says what it waits
for. Of an array that makes shards or answers: the logs of its tasks.

Flags: flags/logs.py; work: runs/log.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.logs import Logs
from launch.flags.parse import parse_flags


def main() -> int:
    flags = parse_flags(Logs, sys.argv[1:], usage=__doc__)
    from launch.runs.log import show_log

    return show_log(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
