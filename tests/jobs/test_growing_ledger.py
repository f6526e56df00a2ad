"""A ledger that is looked at again and again, as by who follows a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.storage.store import Store
from jobs.events import Crashed, Resumed
from jobs.ledger import GrowingLedger, Ledger, note_crash, read_ledger


def test_ledger_that_is_looked_at_again_reads_what_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, read = Store(tmp_path / "r"), list[str]()
    for attempt in (0, 1):
        Ledger(store, attempt).note(Resumed(attempt), utc_seconds=1.0)
    looked_at, reads = GrowingLedger(store), Store.read
    monkeypatch.setattr(
        Store, "read", lambda self, name, *more: read.append(name) or reads(self, name, *more)
    )

    first = looked_at.news()
    read.clear()
    assert looked_at.news() == []
    assert read == ["attempt-0001.jsonl"]
    note_crash(store, 0, Crashed("late"))  # of a lost attempt
    late = looked_at.news()

    assert [entry.event for entry in first] == [Resumed(0), Resumed(1)]
    assert [entry.event for entry in late] == [Crashed("late")]
    assert looked_at.entries() == read_ledger(store)
