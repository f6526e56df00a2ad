"""
    python launch/logs.py my-run
    python launch/logs.py my-run -f

One log of a run over all its attempts and jobs; -f goes on until the run ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from launch.console import guarded, parse_flags

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Logs:
    """Print what a rank of a run has logged, over all attempts."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run."""
    follow: Annotated[bool, tyro.conf.arg(aliases=["-f"]), tyro.conf.FlagCreatePairsOff] = False
    """Go on until the run ends; Ctrl-C stops showing, not the run."""
    rank: int = 0
    """Whose log; rank 0 tells how the run goes, and has the batch script's words."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""


def main() -> int:
    flags = parse_flags(Logs, sys.argv[1:])
    from launch.statuses import RunStatus

    status = RunStatus.of(flags.run, flags.checkpoints)
    shown: dict[Path, int] = {}
    while True:
        ended = not flags.follow or not status.is_active()  # asked before the last look
        for text in _news(status.job_folders(), flags.rank, shown):
            sys.stdout.write(text)
        sys.stdout.flush()
        if ended:
            break
        time.sleep(POLL_SECONDS)
    if not shown:
        sys.stderr.write(f"Run {flags.run} has logged nothing yet: {status.state()}.\n")
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


if __name__ == "__main__":
    sys.exit(guarded(main))
