"""
One log of a run over all its attempts and jobs: what launch/logs.py prints.

    exit_code = show_log(Logs(run="my-run", follow=True))
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launch.cluster.slurm import NEVER_STARTS_HELP
from launch.console.lines import EXIT_FAILED, note
from launch.flags.logs import Logs
from launch.runs.run import Run
from launch.runs.status import RunStatus

POLL_SECONDS = 0.5


def show_log(flags: Logs) -> int:
    """Print what a rank has logged, and go on until the run ends if asked to; return the exit code."""
    status = RunStatus.of(Run.find(flags.run, flags.checkpoints, flags.runs))
    shown: dict[Path, int] = {}
    while True:
        goes_on = status.is_active() and not status.never_starts()  # asked before the last look
        for text in _news(status.job_folders(), flags.rank, shown):
            sys.stdout.write(text)
        sys.stdout.flush()
        if not flags.follow or not goes_on:
            break
        time.sleep(POLL_SECONDS)
    if not shown:
        note(f"Run {flags.run} has logged nothing yet: {status.state()}.")
    if flags.follow and status.never_starts():
        note(f"error: run {flags.run} {NEVER_STARTS_HELP}.")
        return EXIT_FAILED
    return 0


def _news(folders: list[Path], rank: int, shown: dict[Path, int]) -> Iterator[str]:
    """Yield what has been added to the logs since the last time, oldest job first."""
    for folder in folders:
        logs = folder.glob(f"*_{rank}_log.out")
        for path in sorted(logs, key=lambda path: int(path.name.split("_")[0])):
            with path.open("rb") as file:
                file.seek(shown.get(path, 0))
                data = file.read()
            shown[path] = shown.get(path, 0) + len(data)
            yield data.decode(errors="replace")
