"""Ranks that find each other."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from jobs import world
from jobs.world import World, process_group, share_cores


def _join(folder: str, rank: int, start: str) -> int:
    os.environ |= {"SUBMITIT_FOLDER": folder, "INSTRUCT_START": start}
    with process_group(World(rank, 2, rank, 1, "12", "")):
        numbers: list[int | None] = [None, None]
        dist.all_gather_object(numbers, rank)
    return sum(number or 0 for number in numbers)


def test_ranks_of_one_start_meet_on_any_free_port(tmp_path: Path) -> None:
    (tmp_path / "rendezvous-0000-12.json").write_text("of an earlier start")

    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.starmap(_join, [(str(tmp_path), rank, "0001") for rank in (0, 1)])

    assert sums == [1, 1]
    meeting = json.loads((tmp_path / "rendezvous-0001-12.json").read_text())
    assert meeting["address"] == "127.0.0.1"


def test_peer_that_only_slurm_can_resolve_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "192.0.2.7")

    assert world._own_address("no-such-host.invalid") == "192.0.2.7"
    assert world._own_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("cores", "processes", "variables", "threads"),
    [
        (8, 2, {}, 4),
        (2, 4, {}, 1),
        (8, 2, {"SLURM_CPUS_PER_TASK": "3"}, 3),
        (8, 2, {"SLURM_CPUS_PER_TASK": "3", "OMP_NUM_THREADS": "5"}, 5),
    ],
)
def test_threads_are_a_share_of_the_cores_unless_someone_says_otherwise(
    cores: int,
    processes: int,
    variables: dict[str, str],
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    chosen: list[int] = []
    here = SimpleNamespace(environ=os.environ, sched_getaffinity=lambda pid: set(range(cores)))
    monkeypatch.setattr(world, "os", here)
    monkeypatch.setattr(world, "torch", SimpleNamespace(set_num_threads=chosen.append))

    share_cores(processes)

    assert chosen == [threads]
