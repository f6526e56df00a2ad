"""
    python launch/doctor.py
    python launch/doctor.py --partition gpu --checkpoints s3://bucket/runs
    python launch/doctor.py --partition gpu --deep

Says before anything is queued what would fail, a line a check, each with its fix: Python, torch and
the driver, data, open files, the partition and what it does to jobs, the disk or the bucket;
with --deep also what the nodes themselves find. Exit code 1 where something would fail.

Flags: flags/doctor.py; work: checkup/doctor.py.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from launch.console.lines import guarded
from launch.flags.doctor import Doctor
from launch.flags.site import parse_on_site


def main() -> int:
    flags = parse_on_site(Doctor, sys.argv[1:], usage=__doc__)
    from launch.checkup.doctor import doctor

    return doctor(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
