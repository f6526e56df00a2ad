"""
An intact checkpoint is never condemned: what cannot be read now is read again, elsewhere and later.

A shared disk answers EIO or ESTALE for a while and is well again; a node reads other bytes than were
written. Neither says anything about the checkpoint.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from instruct_core.checkpoints import steps
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import committed_steps, step_name
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.errors import NoCheckpointError
from instruct_core.storage import disk, patience, plain_file
from instruct_core.storage.store import Store
from tests.fakes import facts_of
from tests.forked_ranks import in_ranks
from tests.slow_clock import Clock

PASSING = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Nobody sleeps: a pause is over at once, and the clock has gone on."""
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    monkeypatch.setattr(steps, "sleep", clock.sleep)
    return clock


def begin(place: Path, patience_seconds: float = 60.0) -> Checkpoints:
    checkpoints = Checkpoints(Store(place, patience_seconds))
    checkpoints.claim_attempt()
    return checkpoints


ALL = Keep(last=9)


def save(checkpoints: Checkpoints, *numbers: int, keep: Keep = ALL) -> None:
    for step in numbers:
        weights = {"w": torch.full((300,), float(step))}
        snapshot = checkpoints.take(step, weights, {}, weights, {}, facts_of(step))
        checkpoints.write(snapshot, keep)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save(begin(tmp_path / "run"), 1, 2, 3)
    return tmp_path / "run"


class SickDisk:
    """The `os` of a module that reads from disks, of which some functions fail for a while."""

    def __init__(self, names: tuple[str, ...], number: int, times: int) -> None:
        self._names, self._number, self.times = names, number, times

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._names:
            return real

        def call(*args: Any, **options: Any) -> Any:
            if self.times:
                self.times -= 1
                raise OSError(self._number, os.strerror(self._number))
            return real(*args, **options)

        return call


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("names", [("preadv",), ("open",), ("scandir",), ("fstat",)])
def test_disk_that_fails_for_a_while_is_asked_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], number: int
) -> None:
    checkpoints = begin(place)
    sick = SickDisk(names, number, times=5)
    for module in (disk, plain_file):
        monkeypatch.setattr(module, "os", sick)

    loaded = load_newest(checkpoints, on_damaged=pytest.fail)

    assert loaded is not None
    assert loaded.step == 3
    assert sick.times == 0
    assert committed_steps(checkpoints.store) == [1, 2, 3]


def test_disk_that_stays_sick_ends_the_start_and_condemns_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    checkpoints = begin(place)
    began_at = clock.now
    with monkeypatch.context() as sick:
        sick.setattr(disk, "os", SickDisk(("preadv",), errno.EIO, times=-1))
        with pytest.raises(OSError, match="Input/output error"):
            load_newest(checkpoints, on_damaged=pytest.fail)
    assert 50 < clock.now - began_at <= 60

    loaded = load_newest(begin(place), on_damaged=pytest.fail)

    assert loaded is not None
    assert loaded.step == 3


def test_call_that_takes_longer_than_the_patience_is_tried_again(clock: Clock) -> None:
    calls = []

    def slow() -> str:
        calls.append(clock.now)
        clock.now += 100.0
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")
        return "answered"

    assert patience.patiently(slow, 3.0, patience.passes_on_a_disk) == "answered"


def test_disk_that_takes_no_new_file_is_read_all_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = begin(place)

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(Path, "touch", full)

    loaded = load_newest(checkpoints, on_damaged=pytest.fail)

    assert loaded is not None
    assert loaded.step == 3


@pytest.mark.parametrize("made_again", [False, True])
def test_step_that_a_killed_removal_had_taken_away_is_put_back(
    place: Path, made_again: bool
) -> None:
    (place / step_name(3)).rename(place / f"left-{step_name(3)}-attempt-0000")
    if made_again:
        save(begin(place), 3)

    loaded = load_newest(begin(place), on_damaged=pytest.fail)

    assert loaded is not None
    assert loaded.step == 3
    save(begin(place), 4)
    assert committed_steps(Store(place)) == [1, 2, 3, 4]
    assert not list(place.glob("left-*"))


def test_claim_that_failed_after_its_name_was_there_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "run", patience_seconds=60.0)
    real, failed = disk.sync_folder, []

    def sync_once_badly(path: Path) -> None:
        if (tmp_path / "run" / "claim").exists() and not failed:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(disk, "sync_folder", sync_once_badly)

    assert store.claim("claim", b"mine")
    assert failed
    assert not store.claim("claim", b"another's")


@contextmanager
def read_wrongly(monkeypatch: pytest.MonkeyPatch, times: int) -> Iterator[None]:
    """Have this process read other bytes than lie on the disk, so many times."""
    real: Callable[..., str] = Store.read_hashed
    left = [times]

    def spoiled(store: Store, name: str, buffer: Any) -> str:
        said = real(store, name, buffer)
        if not left[0]:
            return said
        left[0] -= 1
        buffer[-1] ^= 1
        return "0" * 32

    with monkeypatch.context() as change:
        change.setattr(Store, "read_hashed", spoiled)
        yield


def test_bad_page_of_one_look_is_no_verdict(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = begin(place)

    with read_wrongly(monkeypatch, times=1):
        loaded = load_newest(checkpoints, on_damaged=pytest.fail)

    assert loaded is not None
    assert (loaded.step, loaded.model["w"][0]) == (3, 3.0)
    assert committed_steps(checkpoints.store) == [1, 2, 3]


def test_rank_that_reads_other_bytes_than_rank_0_ends_and_nothing_is_set_aside(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(rank: int) -> str:
        with read_wrongly(monkeypatch, times=99 if rank == 1 else 0):
            try:
                load_newest(Checkpoints(Store(place)), on_damaged=pytest.fail)
            except OSError as error:
                return str(error)
            except RuntimeError:
                return "lost its peer"
        return "loaded"

    first, second = in_ranks(2, load)

    assert first == "lost its peer"
    assert "Rank 0 reads what was written: this node does not" in second
    assert committed_steps(Store(place)) == [1, 2, 3]


def flip(place: Path, step: int) -> None:
    path = place / step_name(step) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_damage_that_two_looks_find_is_set_aside_and_named_when_nothing_is_left(
    place: Path,
) -> None:
    flip(place, 3)
    damaged: list[str] = []

    loaded = load_newest(begin(place), on_damaged=damaged.append)

    assert loaded is not None
    assert loaded.step == 2
    assert "model.safetensors is corrupt: xxh3 differs" in damaged[0]
    for step in (1, 2):
        flip(place, step)
    with pytest.raises(NoCheckpointError, match=r"damaged-step-00000001-attempt-\d+, damaged-step"):
        load_newest(begin(place))


def test_sick_disk_at_a_removal_condemns_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = begin(place, patience_seconds=0.0)
    sick = SickDisk(("preadv",), errno.EIO, times=1)
    real = checkpoints.retention._verify

    def verify(step: int) -> None:
        monkeypatch.setattr(disk, "os", sick)
        real(step)

    monkeypatch.setattr(checkpoints.retention, "_verify", verify)
    weights = {"w": torch.zeros(300)}
    snapshot = checkpoints.take(4, weights, {}, weights, {}, facts_of(4))

    removed = checkpoints.write(snapshot, Keep(last=1))

    assert "Input/output error" in removed.problems[0]
    assert committed_steps(checkpoints.store) == [1, 2, 3, 4]


def test_manifests_are_read_once_however_many_saves_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = begin(tmp_path / "run")
    read: list[str] = []
    real = Store.read

    def noted(store: Store, name: str, at_most: int = 1 << 40) -> bytes:
        read.append(store.where(name))
        return real(store, name, at_most)

    monkeypatch.setattr(Store, "read", noted)
    save(checkpoints, *range(1, 11), keep=Keep(last=1, every=1))

    manifests = [name for name in read if name.endswith("manifest.json")]
    assert len(manifests) <= 2 * 10  # read back at its commit, and once to know its loss
