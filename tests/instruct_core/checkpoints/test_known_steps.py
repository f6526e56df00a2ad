"""What a run's writer remembers of its steps, and what it asks for anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import step_name
from instruct_core.checkpoints.writer import Ours
from instruct_core.storage import disk
from tests.instruct_core.checkpoints.test_retention import begin, save


def test_save_asks_no_more_of_a_store_with_many_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = begin(tmp_path)
    asked: list[str] = []
    for name in ("_list", "_read"):
        real = getattr(disk.Disk, name)
        monkeypatch.setattr(
            disk.Disk,
            name,
            lambda self, *rest, real=real: asked.append(rest[0]) or real(self, *rest),
        )
    counts = []

    for step in range(1, 13):
        asked.clear()
        save(checkpoints, step, Keep(last=2, every=1))
        counts.append(len(asked))

    assert len(set(counts[2:])) == 1, "each asks as the one before"


def test_start_looks_at_no_more_checkpoints_than_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = begin(tmp_path)
    for step in range(1, 6):
        save(checkpoints, step, Keep(last=9))
    (tmp_path / step_name(6)).mkdir()  # of a save that was killed
    listed: list[str] = []
    real = disk.Disk._list
    monkeypatch.setattr(
        disk.Disk,
        "_list",
        lambda self, *rest: listed.append(str(self.root / rest[0])) or real(self, *rest),
    )

    loaded = load_newest(begin(tmp_path))

    assert loaded is not None
    assert loaded.step == 5
    assert not [place for place in listed if f"{step_name(4)}" in place]


def test_step_that_is_written_anew_vouches_for_nothing(tmp_path: Path) -> None:
    """Its folder is cleared, its save fails, and the disk is full: the older one must stay."""
    checkpoints = begin(tmp_path)
    for step in (1, 2):
        save(checkpoints, step, Keep(last=9))
    load_newest(checkpoints)
    checkpoints.retention.doomed(Keep(last=1), newest=3)

    checkpoints._hashed = Ours(-1, "", [])
    checkpoints._clear(2)
    (tmp_path / step_name(2)).mkdir()

    assert checkpoints.retention.doomed(Keep(last=1), newest=3) == []
