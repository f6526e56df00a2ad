"""
    python launch/control.py my-run save
    python launch/control.py my-run pause
    python launch/control.py my-run resume
    python launch/control.py my-run stop
    python launch/control.py my-run extend 4000
    python launch/control.py my-run rename other-run
    python launch/control.py my-run remove --dry-run

Asks something of a run, for those who may write its folder and may not scancel its job, and for cron.
A run that trains does it at its next step, one that waits when it starts.

Flags: flags/control.py; work: runs/control.py, runs/removal.py, runs/renaming.py, training/resume.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.control import Control, check_control
from launch.flags.parse import parse_flags


def main() -> int:
    flags = parse_flags(Control, sys.argv[1:], usage=__doc__)
    check_control(flags)
    match flags.verb:
        case "remove":
            from launch.runs.removal import remove

            return remove(flags)
        case "rename":
            from launch.runs.renaming import rename

            return rename(flags)
        case "resume":
            from launch.training.resume import resume

            return resume(flags)
    from launch.runs.control import control

    return control(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
