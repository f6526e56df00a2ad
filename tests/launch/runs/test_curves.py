"""Curves of a run that is looked at while somebody removes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from instruct_core.storage.store import Store
from launch.runs.curves import EVENTS, Told, read_curves


def test_run_that_is_removed_while_its_curves_are_read_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / f"{EVENTS}1").touch()
    names = Store.names

    def names_of_what_goes(store: Store, folder: str = "") -> list[str]:
        found = names(store, folder)
        shutil.rmtree(tmp_path / "r")
        return found

    monkeypatch.setattr(Store, "names", names_of_what_goes)

    assert read_curves(Store(tmp_path / "r"), ["train/loss"]) == Told({}, [])
