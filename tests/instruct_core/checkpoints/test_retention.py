"""Which checkpoints remain, and that the last good one always does; full disks are real ones."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep, Retention, kept_steps
from instruct_core.checkpoints.steps import SPARE_BYTES, committed_steps, step_name
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage import disk
from instruct_core.storage.store import Store
from tests.fakes import facts_of
from tests.faults import Faults


def begin(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(Store(folder))
    checkpoints.claim_attempt()
    return checkpoints


def save(
    checkpoints: Checkpoints, step: int, keep: Keep, val_loss: float | None = None, size: int = 1000
) -> list[int]:
    tensors = {"w": torch.full((size,), float(step))}
    return checkpoints.write(
        checkpoints.take(step, tensors, {}, {}, {}, facts_of(step, val_loss)), keep
    ).steps


@given(
    st.dictionaries(st.integers(1, 300), st.none() | st.floats(0, 9), min_size=1),
    st.integers(1, 5),
    st.integers(0, 50),
)
def test_last_ones_those_for_good_and_the_best_stay(
    val_losses: dict[int, float | None], last: int, every: int
) -> None:
    kept = kept_steps(val_losses, Keep(last, every))

    steps = sorted(val_losses)
    assert set(steps[-last:]) <= kept <= set(steps)
    assert all(step in kept for step in steps if every and step % every == 0)
    losses = [loss for loss in val_losses.values() if loss is not None]
    assert not losses or min(losses) in [val_losses[step] for step in kept]
    assert len(kept) <= last + 1 + sum(bool(every) and step % every == 0 for step in steps)


def test_best_and_every_tenth_remain_beside_the_last_two(tmp_path: Path) -> None:
    checkpoints = begin(tmp_path)
    losses = {3: 1.5, 6: 1.2, 9: 1.4, 12: 1.3}

    for step in range(1, 15):
        save(checkpoints, step, Keep(last=2, every=10), losses.get(step))

    assert committed_steps(checkpoints.store) == [6, 10, 13, 14]


def test_nothing_goes_when_what_stays_is_not_what_was_written(tmp_path: Path) -> None:
    """A disk that flips a bit and says nothing, and a run that keeps one checkpoint."""
    checkpoints = begin(tmp_path)
    save(checkpoints, 1, Keep(last=1))

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[-1] ^= 1
        return bytes(changed) if len(changed) > 3000 else data

    with (
        Faults(1, spoil=flip, times=1000),
        pytest.raises(OSError, match=r"xxh3 differs from the manifest\. It is set aside"),
    ):
        save(checkpoints, 2, Keep(last=1))

    assert committed_steps(checkpoints.store) == [1]
    checkpoints = begin(tmp_path)
    loaded = load_newest(checkpoints)
    assert loaded is not None
    assert float(loaded.model["w"][0]) == 1.0
    save(checkpoints, 2, Keep(last=1))
    assert committed_steps(checkpoints.store) == [2]


def test_checkpoint_in_the_making_and_newer_ones_are_not_touched(tmp_path: Path) -> None:
    checkpoints = begin(tmp_path)
    for step in (1, 2, 5):
        save(checkpoints, step, Keep(last=9))
    for step in (3, 7):  # left by a kill, and being written
        (tmp_path / step_name(step)).mkdir()

    Retention(Store(tmp_path)).prune(Keep(last=1), newest=5)

    assert sorted(p.name for p in tmp_path.glob("step-*")) == [step_name(5), step_name(7)]


def test_folder_that_cannot_be_removed_does_not_fail_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = begin(tmp_path)
    save(checkpoints, 1, Keep(last=1))

    def refuse(self: Store, name: str) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Store, "remove", refuse)
    snapshot = checkpoints.take(2, {"w": torch.zeros(3)}, {}, {}, {}, facts_of(2))
    monkeypatch.setattr(checkpoints, "_clear", lambda step: False)
    removed = checkpoints.write(snapshot, Keep(last=1))

    assert removed.steps == []
    assert "step-00000001 stays: " in removed.problems[0]
    assert committed_steps(checkpoints.store) == [1, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 40 MB and 260 files."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=40m,nr_inodes=260"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


SIX_MB = 1_500_000  # numbers


def test_full_disk_is_pruned_for_the_next_save(small_disk: Path) -> None:
    checkpoints = begin(small_disk / "run")
    for step in (1, 2, 3, 4):
        save(checkpoints, step, Keep(last=9), size=SIX_MB)
    assert committed_steps(checkpoints.store) == [1, 2, 3, 4]

    removed = save(checkpoints, 5, Keep(last=9), size=SIX_MB)

    assert removed == [1, 2, 3], "the newest good one stays until the next is there"
    assert committed_steps(checkpoints.store) == [4, 5]


def test_disk_that_somebody_else_has_filled_fails_the_save_and_loses_nothing(
    small_disk: Path,
) -> None:
    checkpoints = begin(small_disk / "run")
    save(checkpoints, 1, Keep(), size=SIX_MB)
    (small_disk / "other").write_bytes(bytes(SPARE_BYTES))

    with pytest.raises(OSError, match=r"it needs 23 MB, and \d+ MB are free") as caught:
        save(checkpoints, 2, Keep(), size=SIX_MB)

    assert caught.value.errno == errno.ENOSPC
    assert sorted(p.name for p in (small_disk / "run").glob("step-*")) == [step_name(1)]
    (small_disk / "other").unlink()
    save(checkpoints, 2, Keep(), size=SIX_MB)
    assert committed_steps(checkpoints.store) == [1, 2]


def test_disk_without_inodes_fails_the_save(small_disk: Path) -> None:
    checkpoints = begin(small_disk / "run")
    for number in range(200):
        (small_disk / f"{number}").touch()

    with pytest.raises(OSError, match=r"it needs 104 files, and \d+ are free"):
        save(checkpoints, 1, Keep())


def test_quota_that_free_space_does_not_show_makes_the_next_save_prune(tmp_path: Path) -> None:
    checkpoints = begin(tmp_path)
    for step in (1, 2, 3):
        save(checkpoints, step, Keep(last=9))

    def refuse(data: bytes) -> bytes:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with Faults(1, spoil=refuse, times=1000), pytest.raises(OSError, match="quota"):
        save(checkpoints, 4, Keep(last=9))

    assert save(checkpoints, 4, Keep(last=9)) == [1, 2]
    assert committed_steps(checkpoints.store) == [3, 4]


def test_what_killed_saves_have_left_makes_room_on_a_full_disk(small_disk: Path) -> None:
    """Also of a later step: the run was warned at 7, killed in that save, and went on from 1."""
    checkpoints = begin(small_disk / "run")
    save(checkpoints, 1, Keep(), size=SIX_MB)
    left = small_disk / "run" / step_name(7)
    left.mkdir()
    (left / "model.safetensors").write_bytes(bytes(14 << 20))

    save(checkpoints, 3, Keep(), size=SIX_MB)

    assert committed_steps(checkpoints.store) == [1, 3]
    assert not left.exists()


def test_trouble_after_the_commit_does_not_undo_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = begin(tmp_path)

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Retention, "prune", fail)
    snapshot = checkpoints.take(1, {"w": torch.zeros(3)}, {}, {}, {}, facts_of(1))

    removed = checkpoints.write(snapshot, Keep())

    assert "Input/output error" in removed.problems[0]
    assert committed_steps(checkpoints.store) == [1]


def test_checkpoint_that_stays_for_good_does_not_vouch_for_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[int] = []
    real = Retention._verify
    monkeypatch.setattr(
        Retention, "_verify", lambda self, step: (verified.append(step), real(self, step))[1]
    )
    checkpoints = begin(tmp_path)
    for step in (10, 11, 12, 13, 14, 15, 16):
        save(checkpoints, step, Keep(last=2, every=10))

    assert committed_steps(checkpoints.store) == [10, 15, 16]
    assert verified == [13, 15], "of every two that come, one is read back"


def test_disk_that_does_not_tell_its_size_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(disk, "os", SimpleNamespace(statvfs=lambda path: found))

    assert Store(tmp_path).free() is None


def test_loss_that_is_no_number_is_not_the_best() -> None:
    losses = {100: float("nan"), 200: 2.0, 300: 3.0, 400: 3.1, 500: 3.2, 600: float("inf")}

    assert kept_steps(losses, Keep(last=2)) == {200, 500, 600}
