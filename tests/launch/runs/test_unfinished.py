"""Removals and renamings that are killed half-way: no run that looks whole, and they can be finished."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from instruct_core.checkpoints.steps import committed_steps, damage_of
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from launch.flags.control import Verb
from launch.runs import removal
from launch.runs.removal import remove
from launch.runs.renaming import rename
from launch.runs.run import Run, runs_in
from tests.launch.runs.test_control import at_rest, told
from tests.launch.test_errors import snapshot


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return at_rest(tmp_path)


class Killed(BaseException):
    """SIGKILL, as far as files can tell."""


def kill_at(operation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process die before its so-manyth change of a store."""
    calls = iter(range(10**6))
    for name in ("remove", "move", "replace"):
        whole = getattr(Store, name)

        def change(store: Store, *words: object, whole: object = whole) -> object:
            if next(calls) == operation:
                raise Killed
            return whole(store, *words)  # type: ignore[operator]

        monkeypatch.setattr(Store, name, change)


def is_whole(run: Run) -> bool:
    steps = committed_steps(run.store)
    return steps == [1, 2] and not any(damage_of(run.store, step) for step in steps)


@pytest.mark.parametrize("operation", range(3, 12))
def test_removal_that_is_killed_leaves_no_run_that_looks_whole_and_can_be_finished(
    run: Run, operation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(operation, patch)
        try:
            remove(told(run, "remove"))
        except Killed:
            names = [found.name for found in runs_in(run.checkpoints)]
            if names:
                assert is_whole(run)
                assert run.ledger.names()
            else:
                with pytest.raises(ConfigError, match=r"half removed.*control\.py r remove"):
                    Run.find("r", run.checkpoints)
            patch.undo()
            remove(told(run, "remove"))

    assert not (tmp_path / "checkpoints_instruct" / "r").exists()
    assert not (tmp_path / "runs_instruct" / "r").exists()


@pytest.mark.parametrize("operation", range(2, 22))
def test_renaming_that_is_killed_leaves_no_run_that_looks_whole_and_can_be_finished(
    run: Run, operation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(operation, patch)
        try:
            rename(told(run, "rename", "q"))
        except Killed:
            for found in runs_in(run.checkpoints):
                assert is_whole(found)
                assert found.ledger.names()
            for name in ("r", "q"):
                store = Store(run.checkpoints) / name
                if store.names() and not store.exists("run.json"):
                    with pytest.raises(ConfigError, match=r"half renamed.*control\.py r rename q"):
                        Run.find(name, run.checkpoints)
            patch.undo()
            rename(told(run, "rename", "q"))

    renamed = Run.find("q", run.checkpoints)
    assert renamed.config.run == "q"
    assert is_whole(renamed)
    assert {"attempt-0000.jsonl", "job"} <= set(renamed.ledger.names())
    assert [found.name for found in runs_in(run.checkpoints)] == ["q"]
    assert not run.store.local_path("").exists()


def test_run_stays_where_nobody_reads_what_its_removal_says(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its owner is not to be asked for that."""
    before = snapshot(tmp_path)

    def say(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(removal, "say", say)

    with pytest.raises(BrokenPipeError):
        remove(told(run, "remove"))

    run.lock.unlink()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("verb", "done"), [("remove", "removed"), ("rename", "renamed")])
@pytest.mark.parametrize("linked", ["checkpoints", "ledger"])
def test_run_whose_folder_is_a_link_is_neither_half_removed_nor_half_renamed(
    run: Run, tmp_path: Path, verb: Verb, done: str, linked: str
) -> None:
    """As people move what is large to another disk: what is there would stay, or go without its name."""
    folder = (run.store if linked == "checkpoints" else run.ledger).local_path("")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to("../elsewhere")
    before = snapshot(tmp_path)

    with pytest.raises(
        ConfigError, match=rf"Run r cannot be {done}: .*/r is a link to \.\./elsewhere"
    ):
        {"remove": remove, "rename": rename}[verb](told(run, verb, "q"))

    assert snapshot(tmp_path) == before
    folder.unlink()
    (tmp_path / "elsewhere").rename(folder)
    assert {"remove": remove, "rename": rename}[verb](told(run, verb, "q")) == 0


@pytest.mark.parametrize("verb", ["remove", "rename"])
def test_folder_in_which_only_owners_remove_gets_no_mark_of_others(
    run: Run, tmp_path: Path, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared folder that is sticky: others may write into it, and take nothing out of it."""
    before, remove_file = snapshot(tmp_path), Store.remove

    def refuses(store: Store, name: str) -> None:
        if name == "run.json":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), store.where(name))
        remove_file(store, name)

    monkeypatch.setattr(Store, "remove", refuses)

    with pytest.raises(ConfigError, match=r"refuses: Operation not permitted\. Ask who owns it"):
        {"remove": remove, "rename": rename}[verb](told(run, verb, "q"))

    run.lock.unlink()
    assert snapshot(tmp_path) == before
