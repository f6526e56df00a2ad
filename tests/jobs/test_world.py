"""Ranks that find each other."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from instruct_core import ranks
from instruct_core.errors import ConfigError
from jobs import world
from jobs.world import World, process_group, share_cores


def _timeouts(folder: str, rank: int) -> list[timedelta]:
    os.environ |= {"SUBMITIT_FOLDER": folder, "INSTRUCT_START": "0001"}
    with process_group(World(rank, 2, rank, 1, "12", "")):
        groups = [dist.group.WORLD, ranks.side_group()]
        assert None not in groups
        return [g._get_backend(torch.device("cpu")).options._timeout for g in groups if g]


def _join(folder: str, rank: int, start: str, peer: str = "") -> int:
    os.environ |= {"SUBMITIT_FOLDER": folder, "INSTRUCT_START": start}
    with process_group(World(rank, 2, rank, 1, "12", peer)):
        numbers: list[int | None] = [None, None]
        dist.all_gather_object(numbers, rank)
    return sum(number or 0 for number in numbers)


def test_ranks_of_one_start_meet_on_any_free_port(tmp_path: Path) -> None:
    (tmp_path / "rendezvous").mkdir()
    (tmp_path / "rendezvous" / "0000-12.json").write_text("of an earlier start")

    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.starmap(_join, [(str(tmp_path), rank, "0001") for rank in (0, 1)])

    assert sums == [1, 1]
    meeting = json.loads((tmp_path / "rendezvous" / "0001-12.json").read_text())
    assert meeting["address"] == "127.0.0.1"


@pytest.mark.skipif(
    not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here"
)
def test_ranks_meet_where_there_is_no_ipv4(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.starmap(_join, [(str(tmp_path), rank, "0001", "::1") for rank in (0, 1)])

    assert sums == [1, 1]
    assert json.loads((tmp_path / "rendezvous" / "0001-12.json").read_text())["address"] == "::1"


def test_ipv4_is_taken_where_both_lead_to_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_DGRAM, 0, "", ("::1", 9, 0, 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("127.0.0.1", 9)),
    ]
    own = SimpleNamespace(
        AF_INET=socket.AF_INET, SOCK_DGRAM=socket.SOCK_DGRAM, socket=socket.socket,
        getaddrinfo=lambda *asked, **how: both,
    )  # fmt: skip
    monkeypatch.setattr(world, "socket", own)

    assert world._address_towards("peer") == "127.0.0.1"


def test_gloo_and_nccl_take_the_interface_that_leads_to_the_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {"usb0": "10.0.0.9", "ib0": "fd00::2", "lo": "::1"}
    found = {name: [SimpleNamespace(address=address)] for name, address in places.items()}
    monkeypatch.setattr(world, "psutil", SimpleNamespace(net_if_addrs=lambda: found))
    environment = dict[str, str]()
    monkeypatch.setattr(world, "os", SimpleNamespace(environ=environment))

    world._use_interface_of("fd00::2")

    assert environment == {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "=ib0"}
    environment.clear()
    world._use_interface_of("::1")
    assert environment == {"GLOO_SOCKET_IFNAME": "lo"}
    environment["GLOO_SOCKET_IFNAME"] = "usb0,lo"
    world._use_interface_of("::1")  # a person's word counts
    assert environment == {"GLOO_SOCKET_IFNAME": "usb0,lo"}


@pytest.mark.parametrize(("job_id", "kind"), [("", ConfigError), ("7", RuntimeError)])
def test_interface_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, job_id: str, kind: type[Exception]
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib7")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job_id:
        monkeypatch.setenv("SLURM_JOB_ID", job_id)

    with pytest.raises(kind, match=r"interface ib7, which .* there are .*lo") as raised:
        world._use_interface_of("127.0.0.1")

    assert type(raised.value) is kind


def test_wait_for_a_peer_outlives_a_night_in_which_the_job_is_suspended(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        timeouts = pool.starmap(_timeouts, [(str(tmp_path), rank) for rank in (0, 1)])

    assert min(min(timeouts)) >= timedelta(hours=24)


def gpus(monkeypatch: pytest.MonkeyPatch, job_id: str | None) -> None:
    """Have torch find no GPU, on Slurm or elsewhere."""
    monkeypatch.setattr(world.torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    if job_id:
        monkeypatch.setenv("SLURM_JOB_ID", job_id)


def test_machine_whose_gpus_torch_does_not_find_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, None)

    with pytest.raises(ConfigError, match=r"torch .* finds none"):
        world._own_device(World(0, 1, 0, 1, "7", ""), needs_gpu=True)
    assert world._own_device(World(0, 1, 0, 1, "7", ""), needs_gpu=False).type == "cpu"


def test_node_whose_gpus_torch_does_not_find_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, "7")
    monkeypatch.setattr(world, "_has_nvidia_card", lambda: True)

    with pytest.raises(RuntimeError, match="Slurm gave this job GPUs on"):
        world._own_device(World(0, 1, 0, 1, "7", ""), needs_gpu=True)


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
        (8, 2, {"OMP_NUM_THREADS": "3,2"}, 3),
        (8, 2, {"OMP_NUM_THREADS": " 3 "}, 3),
        (8, 2, {"OMP_NUM_THREADS": ""}, 4),
        (8, 2, {"OMP_NUM_THREADS": "auto"}, 4),
        (8, 2, {"OMP_NUM_THREADS": "-1"}, 4),
        (8, 2, {"OMP_NUM_THREADS": "0"}, 1),
        (8, 2, {"SLURM_CPUS_PER_TASK": ""}, 4),
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
