"""
What many ranks and many checkpoints cost: open files, requests and bytes of a start and of a save.

    python -m bench.many_ranks                          # 8, 64 and 256 ranks, up to 10,000 steps
    python -m bench.many_ranks --ranks 64 --files 256   # under `ulimit -n 256`

Ranks are forks that meet, save and load a model of a few hundred parameters, as those of a run
do; steps are copies of one. Counts do not depend on the machine.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from instruct_core import ranks
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import step_name
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage.disk import Disk
from instruct_core.storage.documents import load_sealed, seal
from instruct_core.storage.store import Store
from jobs.world import World, process_group
from tests.fakes import facts_of

LISTINGS = ("_list", "names")
REQUESTS = (*LISTINGS, "exists", "size_bytes", "_read", "put", "claim", "remove", "move")
PARAMETERS = 300
asked: Counter[str] = Counter()


@dataclass(frozen=True)
class Flags:
    """What is counted."""

    ranks: tuple[int, ...] = (8, 64, 256)
    """Numbers of ranks."""
    steps: tuple[int, ...] = (10, 1000, 10000)
    """Numbers of checkpoints that a run has kept."""
    files: int = 0
    """Limit of open files, soft and hard (default: as it is)."""


def count_requests() -> None:
    """Count what is asked of the disk from here on, and the bytes of manifests and files read."""
    for name in REQUESTS:
        setattr(Disk, name, _counted(name, getattr(Disk, name)))


def _counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        value = real(*args, **options)
        asked["requests"] += 1
        asked["listings"] += name in LISTINGS
        asked["bytes read"] += len(value) if name == "_read" else 0
        return value

    return call


def taken() -> dict[str, int]:
    """Return what was counted since the last time."""
    counts = dict(asked)
    asked.clear()
    return counts


def save(checkpoints: Checkpoints, step: int) -> None:
    weights = {"w": torch.full((PARAMETERS,), float(step))}
    snapshot = checkpoints.take(step, weights, {}, weights, {}, facts_of(step))
    checkpoints.write(snapshot, Keep(last=3, every=1))


def one_rank(rank: int, world_size: int, folder: Path) -> dict[str, Any]:
    """Meet, save, load; return what was counted."""
    os.environ |= {"SUBMITIT_FOLDER": str(folder), "INSTRUCT_START": "0001"}
    counts: dict[str, Any] = {}
    with process_group(World(rank, world_size, rank, 1, "1", "")):
        checkpoints = Checkpoints(Store(folder / "run"))
        checkpoints.claim_attempt()
        save(checkpoints, 1)
        taken()
        save(checkpoints, 2)
        counts["save"] = taken()
        assert load_newest(checkpoints) is not None
        counts["load"] = taken()
        counts["files"] = len(list(Path("/proc/self/fd").iterdir()))
        ranks.barrier()
    return counts


def of_ranks(world_size: int) -> list[dict[str, Any]]:
    """Return what each of so many ranks counted."""
    folder = Path(tempfile.mkdtemp(prefix="ranks"))
    children = []
    for rank in range(world_size):
        if child := os.fork():
            children.append(child)
            continue
        code = 1
        try:
            count_requests()
            (folder / f"{rank}.json").write_bytes(
                json.dumps(one_rank(rank, world_size, folder)).encode()
            )
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * world_size, f"ranks ended with {codes}"
    counts = [json.loads((folder / f"{rank}.json").read_bytes()) for rank in range(world_size)]
    shutil.rmtree(folder)
    return counts


def of_steps(num_steps: int) -> dict[str, dict[str, int]]:
    """Return what is asked where a run has kept so many steps: at its start, and by two saves."""
    folder = Path(tempfile.mkdtemp(prefix="steps"))
    store = Store(folder)
    checkpoints = Checkpoints(store)
    checkpoints.claim_attempt()
    save(checkpoints, 1)
    manifest = load_sealed(store / step_name(1), "manifest.json")
    for step in range(2, num_steps + 1):
        shutil.copytree(folder / step_name(1), folder / step_name(step))
        manifest["global_step"] = manifest["progress"]["global_step"] = step
        (folder / step_name(step) / "manifest.json").write_bytes(seal(manifest))
    checkpoints = Checkpoints(store)
    checkpoints.claim_attempt()
    taken()
    assert load_newest(checkpoints) is not None
    counts = {"start": taken()}
    for name in ("first save", "next save"):
        save(checkpoints, num_steps + len(counts))
        counts[name] = taken()
    shutil.rmtree(folder)
    return counts


def main(flags: Flags) -> None:
    if flags.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (flags.files, flags.files))
    for world_size in flags.ranks:
        first, *others = of_ranks(world_size)
        most = max(other["files"] for other in others)
        print(
            f"{world_size} ranks: open files {first['files']} of rank 0, at most {most} of others"
        )
        for what in ("save", "load"):
            of_others = max(other[what].get("requests", 0) for other in others)
            print(f"  {what}: rank 0 {first[what]}; others at most {of_others} requests each")
    count_requests()
    for num_steps in flags.steps:
        for what, counts in of_steps(num_steps).items():
            print(f"{num_steps} steps, {what}: {counts}")


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
