"""What the ledger says of saves, also of those that nobody was left to tell of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instruct_core.storage.store import Store
from jobs.ledger import Ledger, newest_timed_save, note_untold_save, read_ledger

MANIFEST = {"global_step": 10, "attempt": 0, "saved_at": 1234.5678}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The ledger of a run that was killed after step 5, or while it committed step 10."""
    store = Store(tmp_path)
    Ledger(store, attempt=0).note("saved", step=5, seconds=2.0, step_seconds=0.5)
    return store


def saves_of(store: Store) -> list[dict[str, Any]]:
    return [event for event in read_ledger(store) if event["event"] == "saved"]


def test_untold_save_is_told_once_as_that_of_the_attempt_that_made_it(store: Store) -> None:
    note_untold_save(Ledger(store, attempt=1), store, MANIFEST)
    note_untold_save(Ledger(store, attempt=2), store, MANIFEST)

    _, untold = saves_of(store)
    assert untold == {"attempt": 0, "utc_seconds": 1234.568, "event": "saved", "step": 10}


def test_save_that_was_told_is_not_told_again(store: Store) -> None:
    note_untold_save(Ledger(store, attempt=1), store, MANIFEST | {"global_step": 5})

    assert len(saves_of(store)) == 1


def test_step_that_was_damaged_and_made_again_is_another_save(store: Store) -> None:
    note_untold_save(Ledger(store, attempt=2), store, MANIFEST | {"global_step": 5, "attempt": 1})

    assert [(event["attempt"], event["step"]) for event in saves_of(store)] == [(0, 5), (1, 5)]


def test_duration_of_a_save_is_that_of_the_newest_that_tells_it(store: Store) -> None:
    assert newest_timed_save(Store(store.url + "-other")) is None

    note_untold_save(Ledger(store, attempt=1), store, MANIFEST)

    save = newest_timed_save(store)
    assert save is not None
    assert (save["step"], save["seconds"], save["step_seconds"]) == (5, 2.0, 0.5)
