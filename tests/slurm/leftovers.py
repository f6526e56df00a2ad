"""
What would be left of a cluster: processes, networks, cgroups, files. And a process that sees to it.

    watcher = watch(folder, networks)       # takes them away as soon as this session has been killed
    ...
    end_processes(folder)
    remove_spaces(folder, networks)
    watcher.kill()

Slurm's daemons, and what they start, leave every process tree and session: they are found by the
SLURM_CONF that each of them was started with.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.slurm.processes import environment_of, kill

CGROUPS = Path("/sys/fs/cgroup")
REPO = Path(__file__).resolve().parent.parent.parent


def processes_of(folder: Path) -> list[int]:
    """Return the processes that mean the cluster of a folder, but for this one."""
    ours = f"SLURM_CONF={folder}{os.sep}".encode()
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if int(process.name) != os.getpid()
        and any(word.startswith(ours) for word in environment_of(process))
    ]


def end_processes(folder: Path) -> None:
    """Kill all processes of a cluster, what they start meanwhile too."""
    while pids := processes_of(folder):
        for pid in pids:
            kill(pid)
        time.sleep(0.02)


def cgroups_of(folder: Path) -> list[Path]:
    """Return what a cluster's jobs are held in, of each kind that Slurm uses; cgroup v1."""
    name = str(folder).strip(os.sep).replace(os.sep, "-")
    return [CGROUPS / kind / name for kind in ("memory", "freezer")]


def remove_spaces(folder: Path, networks: Sequence[str]) -> None:
    """Remove a cluster's networks, and what its jobs were held in, where all have ended."""
    for name in networks:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    for own in cgroups_of(folder):
        for path in sorted(own.glob("**/"), reverse=True):  # the innermost first
            with suppress(OSError):
                path.rmdir()


def watch(folder: Path, networks: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process that takes a cluster away where this one is killed; it does nothing else."""
    command = [sys.executable, "-m", "tests.slurm.leftovers", str(os.getpid()), str(folder)]
    return subprocess.Popen(
        [*command, *networks], cwd=REPO, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def main() -> None:
    """Wait for the end of a session, and take away what it has left."""
    session, folder, networks = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    try:
        opened = os.pidfd_open(session)
    except ProcessLookupError:
        opened = None
    if opened is not None and os.getppid() == session:  # else its number may be another's
        select.select([opened], [], [])
    end_processes(folder)
    remove_spaces(folder, networks)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
