"""
    python launch/report.py my-run
    python launch/report.py my-run --out page.html

All about a run as one HTML page, to keep or to send: curves over all attempts with every
interruption marked, where the hours went, what it answered beside what it should have said,
evaluations, checkpoints, settings. It works while the run trains.

Flags: flags/report.py; work: reports/.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.parse import parse_flags
from launch.flags.report import Report


def main() -> int:
    flags = parse_flags(Report, sys.argv[1:], usage=__doc__)
    from launch.reports.report import write_report

    return write_report(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
