"""
    python launch/logs.py my-run
    python launch/logs.py my-run -f

One log of a run over all its attempts and jobs; -f goes on until the run ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launch.console.lines import guarded
from launch.flags.logs import Logs
from launch.flags.parse import parse_flags

POLL_SECONDS = 0.5


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
