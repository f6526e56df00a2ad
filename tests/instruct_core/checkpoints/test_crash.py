"""
The second promise, operation by operation: whatever happens to a save, a checkpoint remains.

A save is killed at each of its operations, on a disk and on a real S3 server, or the operation is
refused, or does something else than it says. After each, the newest committed step loads, bit for
bit, and the next save works.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import committed_steps, damage_of, steps_of
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage.store import Store
from tests.fakes import facts_of
from tests.faults import EACCES, EIO, ENOSPC, Error, Faults, run_in_child, timeout

KEEP = Keep(last=2)


def tensors(step: int, value: float | None = None) -> dict[str, torch.Tensor]:
    value = float(step) if value is None else value
    return {"a": torch.full((300,), value), "b": torch.arange(step)}


def save(checkpoints: Checkpoints, step: int, value: float | None = None) -> None:
    rng = {"torch": torch.tensor([step], dtype=torch.uint8)}
    snapshot = checkpoints.take(
        step, tensors(step, value), {"n": step}, tensors(step + 1, value), rng, facts_of(step)
    )
    checkpoints.write(snapshot, KEEP)


def begin(url: str) -> Checkpoints:
    checkpoints = Checkpoints(Store(url, patience_seconds=0))  # an error is not waited for
    checkpoints.claim_attempt()
    return checkpoints


def make_two(url: str) -> None:
    """Leave two checkpoints, of which the next save removes the first."""
    checkpoints = begin(url)
    for step in (1, 2):
        save(checkpoints, step)


def check_newest(url: str, at_least: int) -> Checkpoints:
    """Load as the next attempt does; the newest committed step must be there, and right."""
    newest = committed_steps(Store(url))[-1]
    checkpoints = begin(url)
    damaged: list[str] = []

    loaded = load_newest(checkpoints, on_damaged=damaged.append)

    assert loaded is not None
    assert not damaged
    assert loaded.step == newest >= at_least
    store = checkpoints.store  # what looks like a checkpoint is one, however old
    assert not any(damage_of(store, step) for step in committed_steps(store))
    for found, step in ((loaded.model, newest), (loaded.optimizer, newest + 1)):
        assert all(torch.equal(found[name], value) for name, value in tensors(step).items())
    return checkpoints


def check_next_save(checkpoints: Checkpoints, url: str, step: int = 4) -> None:
    save(checkpoints, step)

    loaded = load_newest(begin(url))
    assert loaded is not None
    assert loaded.step == step
    store = Store(url)
    assert all(steps_of(store).values()), "what a killed save has left is removed by the next"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "run"
    make_two(str(folder))
    return folder


@pytest.mark.parametrize(("kill", "fewest"), [("before", 40), ("half", 4)])
def test_save_killed_at_any_operation_on_a_disk_loses_nothing(
    template: Path, tmp_path: Path, kill: str, fewest: int
) -> None:
    """A kill after an operation is one before the next."""
    for at in range(1, 1000):
        url = str(tmp_path / f"run-{at}")
        shutil.copytree(template, url)

        def attempt(url: str = url, at: int = at) -> None:
            with Faults(at, kill=kill):
                checkpoints = begin(url)
                load_newest(checkpoints)
                save(checkpoints, 3)

        ended = run_in_child(attempt)

        checkpoints = check_newest(url, at_least=3 if ended else 2)
        check_next_save(checkpoints, url)
        shutil.rmtree(url)
        if ended:
            assert at > fewest, "a save has more operations than that"
            return
    pytest.fail("a save without end")


@pytest.mark.parametrize("error", [ENOSPC, EIO, EACCES, timeout])
def test_save_refused_at_any_operation_on_a_disk_loses_nothing(
    template: Path, tmp_path: Path, error: Error
) -> None:
    refused = 0
    for at in range(1, 1000):
        url = str(tmp_path / f"run-{at}")
        shutil.copytree(template, url)
        checkpoints = begin(url)
        load_newest(checkpoints)

        with Faults(at, error=error) as faults:
            try:
                save(checkpoints, 3)
                ended = True
            except OSError:
                ended = False
        refused += not ended

        # The same process goes on; and so would another one.
        save(checkpoints, 3)
        checkpoints = check_newest(url, at_least=3)
        check_next_save(checkpoints, url)
        shutil.rmtree(url)
        if faults.count < at:
            assert refused > 20, "most operations are ones that a save cannot do without"
            return
    pytest.fail("a save without end")


def flip(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def tear(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("spoil", [flip, tear])
def test_write_that_reports_success_and_did_something_else_is_found_out(
    template: Path, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    for at in range(1, 1000):
        url = str(tmp_path / f"run-{at}")
        shutil.copytree(template, url)
        checkpoints = begin(url)
        load_newest(checkpoints)

        with Faults(at, spoil=spoil) as faults:
            try:
                save(checkpoints, 3)
                saved = True
            except OSError:
                assert faults.count >= at
                saved = False

        loaded = load_newest(begin(url))
        assert loaded is not None
        assert loaded.step in (2, 3)
        if spoil is tear:  # a part that is missing is noticed before the step is committed
            assert (loaded.step == 3) == saved
        expected = tensors(loaded.step)
        assert all(torch.equal(loaded.model[name], value) for name, value in expected.items())
        if faults.count < at:
            assert loaded.step == 3
            return
    pytest.fail("a save without end")


def test_interrupted_claim_leaves_no_empty_lock(tmp_path: Path) -> None:
    """An attempt's claim is whole or not there, at whatever operation it was killed."""
    for at in range(1, 1000):
        url = str(tmp_path / f"run-{at}")

        def attempt(url: str = url, at: int = at) -> None:
            with Faults(at, kill="before"):
                begin(url)

        ended = run_in_child(attempt)

        folder = Path(url, "attempts")
        claims = list(folder.glob("[0-9]*.json"))
        assert all(claim.stat().st_size > 0 for claim in claims)
        assert begin(url).attempt == len(claims)
        if ended:
            return
    pytest.fail("a claim without end")


def test_two_writers_of_one_step_leave_one_checkpoint(tmp_path: Path) -> None:
    """A newer attempt begins while an older one is anywhere in its save: one of them commits."""
    for at in range(1, 1000):
        url = str(tmp_path / f"run-{at}")
        older = begin(url)
        newer = Checkpoints(Store(url))
        overtaken = Overtaken(at, lambda newer=newer: (newer.claim_attempt(), save(newer, 1)))

        with overtaken:
            try:
                save(older, 1)
            except (OSError, RuntimeError) as error:
                assert overtaken.count >= at, error  # noqa: PT017  it may as well succeed

        loaded = load_newest(begin(url))
        assert loaded is not None
        assert loaded.step == 1
        assert all(torch.equal(loaded.model[name], v) for name, v in tensors(1).items())
        if overtaken.count < at:
            assert loaded.manifest.attempt == 0
            return
    pytest.fail("a save without end")


class Overtaken(Faults):
    """Has somebody else do something just before an operation."""

    def __init__(self, at: int, other: Callable[[], object]) -> None:
        super().__init__(at)
        self._other = other

    def _is_due(self) -> bool:
        if super()._is_due():
            at, self._at = self._at, 0
            count = self.count
            self._other()
            self.count, self._at = max(count, at), 0
        return False


if os.environ.get("OMP_NUM_THREADS") != "1":  # a forked child hangs in a pool it has not got
    torch.set_num_threads(1)
