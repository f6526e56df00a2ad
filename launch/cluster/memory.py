"""
How much memory a job on this machine may take: what is free, and what its control group leaves it.

    free_memory()

A container, a login node and a batch job have less than the machine: each of the groups above this
process may have a limit. What a group holds as a cache of files is given up when memory is short.

Sources: cgroups(7); the kernel's admin-guide/cgroup-v2 and cgroup-v1/memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class _Names(NamedTuple):
    limit: str
    usage: str
    cache: str  # its line in memory.stat


V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = _Names("memory.max", "memory.current", "inactive_file")


def free_memory() -> int:
    """Return the bytes that this process and its children can still take."""
    import psutil  # here: as in gpus.py

    left = [_left_in(folder, names) for folder, names in _groups()]
    free = int(psutil.virtual_memory().available)
    return min([free, *(bytes_ for bytes_ in left if bytes_ is not None)])


def _groups() -> Iterator[tuple[Path, _Names]]:
    """Yield the folders of this process's control groups, with those above it."""
    mounts = ROOT / "sys/fs/cgroup"
    try:
        lines = (ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mount, names = mounts / "memory", V1
        elif not controllers:
            mount, names = mounts, V2
        else:
            continue
        # In a container the path may be the host's, and the mount the container's own group.
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):
            yield mount / folder, names


def _left_in(folder: Path, names: _Names) -> int | None:
    """Return what a group's limit leaves; None where it has none."""
    try:
        limit = int((folder / names.limit).read_text(encoding="utf-8"))
        used = int((folder / names.usage).read_text(encoding="utf-8"))
        stat = dict(
            line.split()
            for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        )
    except (OSError, ValueError):  # not there, or "max"
        return None
    return max(0, limit - used + int(stat.get(names.cache, 0)))
