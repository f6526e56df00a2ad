"""A node that computes, copies, talks or reads wrongly is named by all ranks before it loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from instruct_core.errors import MissingError
from instruct_core.storage.store import Store
from jobs import first_seconds as module
from jobs.failures import failure_report, read_failures
from jobs.first_seconds import look_for_settings, try_out
from jobs.job_folder import BadNodeError, Progress
from jobs.survival.crash import cause_of
from jobs.survival.requeue import judge_crash
from tests.forked_ranks import in_ranks

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "r")
    store.replace("run.json", b"{}")
    return store


def told(rank: int, store: Store) -> str:
    try:
        look_for_settings(store, f"node{rank}")
        try_out(CPU, f"node{rank}")
    except BadNodeError as error:
        return f"{error.node}: {error}"
    return "well"


def test_nodes_that_are_well_pass(store: Store) -> None:
    assert in_ranks(2, lambda rank: told(rank, store)) == ["well"] * 2


@pytest.mark.parametrize(
    ("name", "bad", "problem"),
    [
        ("_multiplies", lambda device: False, "a product is wrong"),
        ("_copies", lambda device: False, "a copy is wrong"),
        ("_sums", lambda device: False, "a sum over all ranks is wrong"),
    ],
)
def test_node_that_fails_is_named_by_every_rank(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str, bad: Callable[..., bool], problem: str
) -> None:
    def work(rank: int) -> str:
        if rank == 1:
            good = getattr(module, name)
            monkeypatch.setattr(module, name, lambda device: good(device) and bad(device))
        return told(rank, store)

    said = f"node1: rank 1 on node1 failed the check of its first seconds: {problem}."
    assert in_ranks(2, work) == [said] * 2


def test_node_without_the_shared_disk_is_named(store: Store, tmp_path: Path) -> None:
    places = [store, Store(tmp_path / "not-mounted")]

    said = in_ranks(2, lambda rank: told(rank, places[rank]))

    assert said[0] == said[1]
    assert said[0].startswith(
        "node1: rank 1 on node1 failed the check of its first seconds: FileNotFound"
    )


def test_run_that_no_node_sees_is_missing_and_none_is_at_fault(store: Store) -> None:
    gone = Store(f"{store.url}-renamed")

    def work(rank: int) -> str:
        with pytest.raises(MissingError) as caught:
            look_for_settings(gone, f"node{rank}")
        return str(caught.value)

    said = in_ranks(2, work)

    assert said[0] == said[1]
    assert said[0].startswith(f"Run {gone.url} is not there: no rank reads its settings (FileNot")


@pytest.mark.parametrize(
    "error", [TimeoutError("no answer in time"), PermissionError("s3://bucket: Forbidden")]
)
def test_store_that_is_away_is_no_nodes_fault(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def read(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(store, "read", read)

    with pytest.raises(type(error)):
        look_for_settings(store, "node0")


@pytest.mark.parametrize("index", [(0, 3), (17, 90)])
def test_one_wrong_number_of_a_product_is_seen(
    monkeypatch: pytest.MonkeyPatch, index: tuple[int, int]
) -> None:
    good = torch.Tensor.cpu

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        result = good(tensor).clone()
        result[index] += 1
        return result

    assert module._multiplies(CPU)
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    assert not module._multiplies(CPU)


def test_node_that_failed_its_check_is_excluded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0001")
    monkeypatch.setenv("SLURMD_NODENAME", "node0")
    error = BadNodeError("rank 1 on node1 failed the check of its first seconds: x.", "node1")
    with pytest.raises(BadNodeError), failure_report(tmp_path, 0):
        raise error

    crash = cause_of(read_failures(tmp_path))

    assert crash.cause.name == "node failed"
    assert judge_crash(crash, tmp_path, Progress()) == (True, "node1")
