"""
The store of a run on a shared disk that fails for a while: nothing lost, nothing condemned.

A fault ends an attempt, and the next one begins, as the comeback has it. At whatever operation of
claiming, saving, loading and pruning that is: what was committed is what the next attempt loads.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.steps import committed_steps, damage_of, steps_of
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage import direct
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import PAGE_BYTES, aligned_buffer
from tests.instruct_core.checkpoints.test_crash import begin, make_two, save, tensors
from tests.shared_disk.faults import KINDS, READ, Fault, Kind, drawn
from tests.shared_disk.mount import SharedDisk, needs_fuse

pytestmark = needs_fuse
MOST_ATTEMPTS = 10_000  # they fail fast


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SharedDisk]:
    with SharedDisk(tmp_path / "folder", tmp_path / "one") as disk:
        yield disk


def load(url: str, at_least: int) -> tuple[Checkpoints, int]:
    """Begin an attempt from the newest step, which is whole and is the newest that was committed."""
    checkpoints = begin(url)
    condemned: list[str] = []

    loaded = load_newest(checkpoints, on_damaged=condemned.append)

    assert condemned == []
    assert not [name for name in Store(url).names() if name.startswith("damaged")]
    step = 0 if loaded is None else loaded.step
    assert step >= at_least
    if loaded is not None:
        assert all(torch.equal(loaded.model[n], tensor) for n, tensor in tensors(step).items())
    return checkpoints, step


def train_through(disk: SharedDisk, url: str) -> int:
    """Save step after step, a few an attempt, until all faults are over; return the last step."""
    committed = 0
    for _ in range(MOST_ATTEMPTS):
        with contextlib.suppress(OSError):
            checkpoints, committed = load(url, at_least=committed)
            if not disk.num_planned():
                return committed
            for _ in range(3):
                save(checkpoints, committed + 1)
                committed += 1
    pytest.fail("attempts without end")


@pytest.mark.parametrize("kind", KINDS)
def test_passing_fault_loses_and_condemns_nothing(disk: SharedDisk, kind: Kind) -> None:
    url = str(disk.path / "run")
    disk.plan(drawn(seed=1, count=12, kinds=[kind], apart=20, seconds=0.03))

    last = train_through(disk, url)
    checkpoints, step = load(url, at_least=last)
    for _ in range(2):
        step += 1
        save(checkpoints, step)

    store = Store(url)
    assert disk.counts()[kind]["faults"] >= 6, "some meet nobody who asks for such an operation"
    assert committed_steps(store) == [step - 1, step]
    assert all(steps_of(store).values()), "what a failed save has left is removed by the next"
    assert [damage_of(store, each) for each in committed_steps(store)] == ["", ""]


@pytest.mark.parametrize("kind", ["EIO", "ESTALE"])
def test_checkpoint_that_cannot_be_read_for_a_while_is_loaded_later(
    disk: SharedDisk, kind: Kind
) -> None:
    """The servers of the data are away, that of names and manifests is not: no byte is damaged."""
    url = str(disk.path / "run")
    make_two(url)
    draw = random.Random(1)

    for _ in range(6):
        after, seconds = draw.randrange(20), draw.uniform(0.01, 0.05)
        disk.plan([Fault(kind, READ, "*.safetensors", after, seconds=seconds)])
        while disk.num_planned():
            with contextlib.suppress(OSError):
                assert load(url, at_least=2)[1] == 2

    assert disk.counts()[kind]["faults"] == 6
    assert load(url, at_least=2)[1] == 2


def test_run_without_flock_saves_and_loads(tmp_path: Path) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "one", no_locks=True) as disk:
        url = str(disk.path / "run")
        make_two(url)

        assert load(url, at_least=2)[1] == 2


def test_large_files_are_written_and_read_where_o_direct_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "DIRECT_BYTES", 4 * PAGE_BYTES)
    with SharedDisk(tmp_path / "folder", tmp_path / "one", no_direct=True) as disk:
        store = Store(disk.path / "run")
        data = aligned_buffer(6 * PAGE_BYTES)
        data[:] = torch.arange(data.size).to(torch.uint8).numpy()

        digest = store.put("large", [memoryview(data.data)])

        assert disk.counts()["no O_DIRECT"]["refused"] > 0
        assert store.read("large") == data.tobytes()
        before = disk.counts()["no O_DIRECT"]["refused"]
        assert store.digest("large") == digest
        assert disk.counts()["no O_DIRECT"]["refused"] > before


def test_attempt_on_another_node_sees_the_newest_step_at_once(
    disk: SharedDisk, tmp_path: Path
) -> None:
    """The other node has looked at the run meanwhile, and remembers for ten minutes what it saw."""
    with SharedDisk(tmp_path / "folder", tmp_path / "two", late_seconds=600) as late:
        here, there = str(disk.path / "run"), str(late.path / "run")
        make_two(here)
        assert committed_steps(Store(there)) == [1, 2]
        checkpoints = begin(here)
        save(checkpoints, 3)

        newer, step = load(there, at_least=3)
        save(newer, step + 1)

        assert committed_steps(Store(here)) == [3, 4]
        assert newer.attempt == checkpoints.attempt + 1


def test_save_does_not_wait_for_what_a_killed_one_has_left_and_nobody_can_remove(
    disk: SharedDisk,
) -> None:
    """On NFS a file that a process of the node has open stays, under another name."""
    url = str(disk.path / "run")
    save(begin(url), 1)
    left = disk.folder / "run" / "step-00000002"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"x")
    checkpoints, _ = load(url, at_least=1)
    disk.plan([Fault("EBUSY", ("change",), "*/left-*")])

    save(checkpoints, 2)

    assert load(url, at_least=2)[1] == 2
    assert disk.counts()["EBUSY"]["refused"]
