"""A checkpoint that is listed and not found is looked for again: neither passed over nor removed."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch

from instruct_core.checkpoints import loader, steps
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import committed_steps
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage import patience, plain_file
from instruct_core.storage.objects import Objects
from instruct_core.storage.store import Store
from tests.fakes import facts_of


class Forgetful:
    """The `os` of plain files, to which some files are not there when they are opened."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, *args: int) -> int:
        if self.times and str(path).endswith("manifest.json"):
            self.times -= 1
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return os.open(path, *args)


def begin(place: Path | str) -> Checkpoints:
    checkpoints = Checkpoints(Store(place))
    checkpoints.claim_attempt()
    return checkpoints


def save(checkpoints: Checkpoints, step: int, keep: int = 9) -> None:
    weights = {"w": torch.full((300,), float(step))}
    snapshot = checkpoints.take(step, weights, {}, weights, {}, facts_of(step))
    checkpoints.write(snapshot, Keep(last=keep))


@pytest.mark.parametrize("times", [1, 2])
def test_checkpoint_that_is_listed_and_not_found_at_one_look_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    checkpoints = begin(tmp_path / "run")
    for step in (1, 2):
        save(checkpoints, step)
    waited: list[float] = []
    monkeypatch.setattr(loader, "sleep", waited.append)
    forgetful = Forgetful(times)
    monkeypatch.setattr(plain_file, "os", forgetful)

    if times == 1:
        loaded = load_newest(checkpoints, on_damaged=pytest.fail)
        assert loaded is not None
        assert loaded.step == 2
    else:
        with pytest.raises(OSError, match="step-00000002 is listed, and cannot be found") as caught:
            load_newest(checkpoints, on_damaged=pytest.fail)
        assert caught.value.errno in patience.PASSING

    assert forgetful.times == 0
    assert len(waited) == times
    assert committed_steps(checkpoints.store) == [1, 2]


def test_step_that_a_resume_saves_again_stays_though_one_look_does_not_find_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was removed and written anew: a kill on the way lost the only one that a run had."""
    save(begin(tmp_path / "run"), 1)
    checkpoints = begin(tmp_path / "run")
    assert load_newest(checkpoints) is not None
    [folder] = (tmp_path / "run").glob("step-*")
    (folder / "mark").touch()
    monkeypatch.setattr(steps, "sleep", lambda _: None)
    forgetful = Forgetful(1)
    monkeypatch.setattr(plain_file, "os", forgetful)

    save(checkpoints, 1)

    assert forgetful.times == 0
    assert (folder / "mark").exists()


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Files that the listings of object stores do not show yet, by the end of their names."""
    hidden: set[str] = set()
    real = Objects.tree

    def tree(objects: Objects) -> dict[str, int | None]:
        return {n: s for n, s in real(objects).items() if not n.endswith(tuple(hidden) or "\0")}

    monkeypatch.setattr(Objects, "tree", tree)
    return hidden


def test_listing_of_a_store_that_is_behind_hides_no_save_and_has_none_removed(
    behind: set[str],
) -> None:
    place = f"memory://{uuid.uuid4().hex}/run"
    checkpoints = begin(place)
    save(checkpoints, 1)
    save(checkpoints, 2)
    behind.add("manifest.json")

    loaded = load_newest(begin(place), on_damaged=pytest.fail)
    assert loaded is not None
    assert loaded.step == 2
    save(begin(place), 3)

    behind.clear()
    assert committed_steps(checkpoints.store) == [1, 2, 3]
