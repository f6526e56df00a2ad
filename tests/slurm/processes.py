"""Processes and ports of a cluster: found, ended, kept apart from those of other clusters."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

PORTS = 200  # of one cluster


def free_ports(num: int) -> tuple[int, socket.socket]:
    """
    Return the first of so many free ports, and a socket that keeps other clusters off them.

    The last port of each range is nobody's but the cluster's that has it open.
    """
    for first in range(20000, 32000, PORTS):
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", first + PORTS - 1))
            for port in range(first, first + num + 10):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            held.close()
            continue
        return first, held
    raise AssertionError("no range of free ports on this machine")


def run_command(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def number_inside(pid: int) -> int:
    """Return the number of a process in the innermost of its process spaces; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


def environment_of(process: Path) -> list[bytes]:
    """Return what a process below /proc was started with; nothing where it has ended."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def descendants(pid: int) -> Iterator[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for t in threads for child in (t / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield int(child)
        yield from descendants(int(child))


def logs_of(process: Path, node: int) -> bool:
    """Return True if a slurmstepd has the log or the spool of a node open."""
    try:
        opened = [str(link.readlink()) for link in (process / "fd").iterdir()]
    except OSError:
        return False
    return any(f"slurmd.node{node}.log" in name or f"/spool/node{node}/" in name for name in opened)


def steps_of(conf: Path, node: int | None = None) -> list[int]:
    """Return the processes of a cluster's job steps, on one node or on all."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        environment = environment_of(entry)
        if f"SLURM_CONF={conf}".encode() not in environment or int(entry.name) == os.getpid():
            continue
        nodes = [word for word in environment if word.startswith(b"SLURMD_NODENAME=")]
        name = name_of(int(entry.name))
        mine = f"SLURMD_NODENAME=node{node}".encode() in nodes
        if node is None:
            ours = bool(nodes) or name in ("slurmstepd", "srun", "slurmd")
        else:
            ours = mine or (name == "slurmstepd" and logs_of(entry, node))
        if ours:
            found.append(int(entry.name))
    return found
