"""
Whether other nodes can see a folder, as far as this machine can tell: by its kind of file system.

    finding = check_shared({"Python": Path(sys.prefix)}, hosts={"node1", "node2"})

Source: proc(5), /proc/self/mounts.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Set
from pathlib import Path

from launch.checkup.finding import Finding, fails, note, ok

IN_MEMORY = {"tmpfs", "ramfs"}
OF_ONE_MACHINE = {"btrfs", "ext2", "ext3", "ext4", "overlay", "xfs", "zfs"}


def check_shared(folders: Mapping[str, Path], hosts: Set[str]) -> Finding:
    """
    Return whether the nodes see all that jobs read and write.

    Args:
        folders: By what they are for.
        hosts: Names of the nodes' machines.
    """
    if {host.partition(".")[0] for host in hosts} == {socket.gethostname().partition(".")[0]}:
        return ok("shared disk", "all nodes are this machine")
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    kinds = {name: file_system(folder, mounts) for name, folder in folders.items()}
    in_memory = [f"{name} ({folders[name]})" for name in kinds if kinds[name] in IN_MEMORY]
    if in_memory:
        found = f"only this machine has {', '.join(in_memory)}: it is kept in memory"
        return fails("shared disk", found, "Move it to a disk that all nodes share")
    alone = [f"{name} on {kind}" for name, kind in kinds.items() if kind in OF_ONE_MACHINE]
    if alone:
        found = f"on disks of this machine: {', '.join(alone)}"
        look = "See that nodes have them: srun ls -d"
        paths = {str(folders[name]) for name, kind in kinds.items() if kind in OF_ONE_MACHINE}
        return note("shared disk", found, f"{look} {' '.join(sorted(paths))}")
    return ok("shared disk", ", ".join(f"{name} on {kind}" for name, kind in kinds.items()))


def file_system(folder: Path, mounts: str) -> str:
    """Return the kind of file system that a folder lies on: of the last, longest mount above it."""
    parts = folder.resolve().parts
    kind, longest = "", 0
    for line in mounts.splitlines():
        _, place, its_kind, *_ = line.split(" ")
        above = Path(place.replace("\\040", " ")).parts
        if parts[: len(above)] == above and len(above) >= longest:
            kind, longest = its_kind, len(above)
    return kind
