"""
What each node finds in a checkup, and whether the nodes see each other: a process a node.

    python -m jobs.checkup FOLDER CHECKPOINTS RANK RANKS NODE

Each writes `alone-RANK.json` as soon as it runs, and `together-RANK.json` once it has met the others;
who writes neither cannot run there. Nothing is tried again: the launcher reads what there is.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import time as utc_seconds
from typing import Any

from instruct_core.errors import InstructError
from instruct_core.storage.store import Store
from jobs.job_folder import START, read_json, replace_json

WAIT_SECONDS = 30.0  # for the others to begin, and then for their files to be seen
POLL_SECONDS = 0.05
NUM_NUMBERS = 4 << 20  # of an all-reduce: 16 MB
ROUNDS = 3


@dataclass(frozen=True)
class Alone:
    """What a node finds by itself."""

    node: str
    problem: str  # why it cannot use the place of the checkpoints; "" if it can


@dataclass(frozen=True)
class Together:
    """What a node finds with the others."""

    node: str
    unseen: list[str] = field(default_factory=list)  # nodes, or files of ranks, that do not appear
    won: bool = False  # it made the file that all tried to make
    late_seconds: float = 0.0  # until the last file of the others was seen
    problem: str = ""  # why the ranks cannot talk
    clock: float = 0.0  # UTC seconds at one moment of all nodes
    reduce_seconds: float = 0.0  # one all-reduce


def main(folder: Path, checkpoints: str, rank: int, num_ranks: int, node: str) -> None:
    """Look, alone and together, and write down what is found."""
    replace_json(folder / f"alone-{rank}.json", asdict(Alone(node, _problem_of(checkpoints))))
    others = _wait_for_others(folder, num_ranks)
    if len(others) < num_ranks:
        missing = [f"rank {r}" for r in range(num_ranks) if r not in others]
        found = Together(node, unseen=missing)
    elif any(report["problem"] for report in others.values()):
        found = Together(node, problem="a node cannot use the checkpoints")
    else:
        found = _meet(folder, checkpoints, rank, {r: others[r]["node"] for r in others})
    replace_json(folder / f"together-{rank}.json", asdict(found))


def _problem_of(checkpoints: str) -> str:
    try:
        Store(checkpoints).try_out()
    except (InstructError, OSError) as error:
        return str(error)
    return ""


def _wait_for_others(folder: Path, num_ranks: int) -> dict[int, dict[str, Any]]:
    """Return what each rank that has begun has written of itself."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        names = os.listdir(folder)  # noqa: PTH208  names only; NFS looks anew
        there = [rank for rank in range(num_ranks) if f"alone-{rank}.json" in names]
        if len(there) == num_ranks or time.monotonic() > deadline:
            return {rank: read_json(folder / f"alone-{rank}.json") for rank in there}
        time.sleep(POLL_SECONDS)


def _meet(folder: Path, checkpoints: str, rank: int, nodes: Mapping[int, str]) -> Together:
    store = Store(checkpoints) / f".{folder.name}"
    won = store.claim("claim", f"{rank} {uuid.uuid4().hex}".encode())
    store.replace(f"rank-{rank}", b"seen")
    begun_at = time.monotonic()
    while unseen := [r for r in nodes if f"rank-{r}" not in store.names()]:
        if time.monotonic() - begun_at > WAIT_SECONDS:
            break
        store.forget_listings()
        time.sleep(POLL_SECONDS)
    late = time.monotonic() - begun_at
    clock, seconds, problem = 0.0, 0.0, ""
    try:
        clock, seconds = _talk(folder, rank, nodes)
    except (RuntimeError, OSError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Together(
        nodes[rank], [f"the file of {nodes[r]}" for r in unseen], won, late, problem, clock, seconds
    )


def _talk(folder: Path, rank: int, nodes: Mapping[int, str]) -> tuple[float, float]:
    """Return this node's clock at a moment that all share, and how long an all-reduce takes."""
    import torch  # the alone report must not wait for it
    import torch.distributed as dist

    from jobs.world import World, process_group

    os.environ |= {"SUBMITIT_FOLDER": str(folder), START: "0"}
    peer = next((node for node in nodes.values() if node != nodes[rank]), "")
    hosts = sorted(set(nodes.values()))
    local_rank = [r for r in nodes if nodes[r] == nodes[rank]].index(rank)
    world = World(rank, len(nodes), local_rank, len(hosts), folder.name, peer)
    with process_group(world) as device:
        if len(nodes) == 1:
            return utc_seconds(), 0.0
        numbers = torch.ones(NUM_NUMBERS, device=device)
        dist.all_reduce(numbers)
        times = []
        for _ in range(ROUNDS):
            dist.barrier()
            begun_at = time.perf_counter()
            dist.all_reduce(numbers)
            numbers[0].item()  # a GPU has then done it
            times.append(time.perf_counter() - begun_at)
        dist.barrier()
        return utc_seconds(), min(times)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
