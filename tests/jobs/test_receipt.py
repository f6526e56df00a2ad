"""Where a run's hours went: every second has a name, and they sum to the whole."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from instruct_core.events import Event, Saved
from instruct_core.storage.store import Store
from jobs.events import Crashed, Finished, Requeued, Resumed, Started, Stopped
from jobs.ledger import Entry, Ledger
from jobs.receipt import CAUSES, RunningReceipt, receipt_of

STARTED = Started(0, "7", 2, "cpu", [1, 2], ["a", "a"])


def line(attempt: int, at: float, event: Event, **spent: float) -> Entry:
    return Entry(attempt, at, event, spent)


def saved(step: int) -> Saved:
    return Saved(step=step, seconds=0.5)


def test_undisturbed_run_is_its_own_sheet_and_the_wait_before_it() -> None:
    entries = [
        line(0, 103.0, STARTED, imports=2.0, meeting=1.0),
        line(0, 104.0, Resumed(0), imports=2.0, meeting=1.0, load=1.0),
        line(0, 110.0, Finished(9), imports=2.0, meeting=1.0, load=1.0, step=5.0, save=1.0),
    ]

    receipt = receipt_of(entries, [90.0], now=None)

    assert receipt.seconds == {
        "step": 5.0, "save": 1.0, "imports": 2.0, "meeting": 1.0, "load": 1.0, "queued": 10.0,
    }  # fmt: skip
    assert receipt.wall_seconds == 20.0
    assert receipt.goodput == 0.25
    assert receipt.losses == []


def test_what_a_killed_attempt_did_after_its_last_save_is_made_again_and_blamed() -> None:
    entries = [
        line(0, 101.0, Resumed(0), imports=1.0),
        line(0, 105.0, saved(10), imports=1.0, step=4.0),
        line(0, 112.0, Crashed("killed", node="n2", comes_back=True)),
        line(1, 121.0, Resumed(10), imports=1.0),
        line(1, 123.0, Finished(12), imports=1.0, step=2.0),
    ]

    receipt = receipt_of(entries, [100.0], now=None)

    assert receipt.seconds == {"step": 6.0, "redone": 7.0, "imports": 2.0, "queued": 8.0}
    assert receipt.wall_seconds == 23.0
    assert [(loss.attempt, loss.seconds, loss.node) for loss in receipt.losses] == [(0, 7.0, "n2")]


def test_save_that_the_next_attempt_did_not_go_on_from_was_for_nothing() -> None:
    entries = [
        line(0, 101.0, Resumed(0), imports=1.0),
        line(0, 105.0, saved(10), imports=1.0, step=4.0),
        line(0, 109.0, saved(20), imports=1.0, step=8.0),
        line(0, 110.0, Requeued(20), imports=1.0, step=8.0, ending=1.0),
        line(1, 112.0, Resumed(10), imports=1.0),  # step 20 was damaged
        line(1, 117.0, Finished(20), imports=1.0, step=5.0),
    ]

    receipt = receipt_of(entries, [100.0], now=None)

    assert receipt.seconds["step"] == 4.0 + 5.0
    assert receipt.seconds["redone"] == 5.0
    assert receipt.wall_seconds == 17.0


def test_attempt_that_ended_before_it_resumed_does_not_condemn_the_one_before() -> None:
    entries = [
        line(0, 101.0, Resumed(0), imports=1.0),
        line(0, 105.0, saved(10), imports=1.0, step=4.0),
        line(0, 106.0, Crashed("killed")),
        line(1, 108.0, STARTED, imports=1.0),
        line(1, 109.0, Crashed("no GPU")),
        line(2, 112.0, Resumed(10), imports=1.0),
        line(2, 113.0, Finished(12), imports=1.0, step=1.0),
    ]

    receipt = receipt_of(entries, [100.0], now=None)

    assert receipt.seconds["step"] == 5.0
    assert receipt.seconds["redone"] == 1.0 + 2.0
    assert receipt.wall_seconds == 13.0


def test_time_that_a_run_was_stopped_is_not_time_in_the_queue() -> None:
    entries = [
        line(0, 101.0, Resumed(0), imports=1.0),
        line(0, 105.0, Stopped(4), imports=1.0, step=4.0),
        line(1, 161.0, Resumed(4), imports=1.0),
        line(1, 162.0, Finished(5), imports=1.0, step=1.0),
    ]

    receipt = receipt_of(entries, [100.0, 150.0], now=None)

    assert receipt.seconds["stopped"] == 45.0
    assert receipt.seconds["queued"] == 10.0


def test_lost_attempt_ends_where_the_next_begins() -> None:
    entries = [
        line(0, 101.0, Resumed(0), imports=1.0),
        line(1, 201.0, Resumed(0), imports=1.0),
        line(1, 202.0, Finished(5), imports=1.0, step=1.0),
    ]

    receipt = receipt_of(entries, [100.0], now=None)

    assert receipt.seconds == {"step": 1.0, "redone": 100.0, "imports": 1.0}


def test_running_attempt_shows_what_a_kill_would_lose_now() -> None:
    entries = [
        line(0, 101.0, Resumed(0), imports=1.0),
        line(0, 105.0, saved(10), imports=1.0, step=4.0),
    ]

    receipt = receipt_of(entries, [100.0], now=108.0)

    assert receipt.seconds == {"step": 4.0, "unsaved": 3.0, "imports": 1.0}


@pytest.mark.parametrize(
    ("end", "submitted_at", "rest"),
    [
        (Requeued(10), [100.0], {"queued": 30.0}),
        (Stopped(10), [100.0], {"ending": 30.0}),
        (Stopped(10), [100.0, 125.0], {"queued": 10.0, "stopped": 20.0}),
    ],
)
def test_attempt_that_has_said_its_last_word_has_nothing_unsaved(
    end: Event, submitted_at: list[float], rest: dict[str, float]
) -> None:
    entries = [
        line(0, 101.0, Resumed(0), imports=1.0),
        line(0, 105.0, end, imports=1.0, step=4.0),
    ]

    receipt = receipt_of(entries, submitted_at, now=135.0)

    assert receipt.seconds == {"step": 4.0, "imports": 1.0, **rest}


def test_queued_run_has_only_waited() -> None:
    assert receipt_of([], [100.0], now=160.0).seconds == {"queued": 60.0}
    assert receipt_of([], [], now=None).wall_seconds == 0.0
    assert receipt_of([], [], now=None).goodput == 0.0


def test_ledger_of_an_older_version_says_that_nobody_knows() -> None:
    entries = [line(0, 100.0, STARTED), line(0, 101.0, Resumed(0)), line(0, 110.0, Finished(5))]

    assert receipt_of(entries, [100.0], now=None).seconds == {"unknown": 10.0}


@pytest.mark.parametrize("now", [None, 400.0])
def test_seconds_sum_to_the_wall_time_where_clocks_disagree(now: float | None) -> None:
    entries = [
        line(0, 101.0, Resumed(0), imports=1.0),
        line(0, 120.0, saved(10), imports=1.0, step=19.0),
        line(0, 119.0, Crashed("killed")),  # by a node whose clock is behind
        line(1, 118.0, Resumed(10), imports=1.0),
        line(1, 130.0, Requeued(12), imports=1.0, step=12.0),
    ]

    receipt = receipt_of(entries, [100.0], now)

    assert all(seconds > 0 for seconds in receipt.seconds.values())
    assert set(receipt.seconds) <= set(CAUSES)
    assert receipt.to_json()["wall_seconds"] == pytest.approx(sum(receipt.seconds.values()))


def test_receipt_up_to_now_has_what_earlier_attempts_spent(tmp_path: Path) -> None:
    store, jobs = Store(tmp_path / "r"), tmp_path / "job"
    before = Ledger(store, 0, lambda: {"imports": 1.0, "step": 4.0})
    before.note(saved(10), 105.0)
    (tmp_path / "r/attempt-0000.jsonl").write_text(
        (tmp_path / "r/attempt-0000.jsonl").read_text().replace("}", ', "spent": {"step": 5.0}}')
    )
    (jobs / "0000/code").mkdir(parents=True)
    os.utime(jobs / "0000/code", (90.0, 90.0))
    receipt = RunningReceipt(store, 1, jobs)
    now = time.time()

    receipt.note(Resumed(10), {"imports": 2.0, "step": 5.0})
    receipt.note(saved(20), {"imports": 2.0, "step": 5.0})
    values = receipt.values()

    assert values["receipt/step_seconds"] == pytest.approx(10.0, rel=0.01)
    assert values["receipt/imports_seconds"] == pytest.approx(2.0, rel=0.01)
    assert sum(s for name, s in values.items() if "_seconds" in name) == pytest.approx(
        now - 90, abs=60
    )
    assert values["receipt/goodput"] == pytest.approx(10.0 / (now - 90), rel=0.1)


def test_ledger_that_cannot_be_read_now_is_asked_again_at_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = RunningReceipt(Store(tmp_path / "r"), 0, tmp_path / "job")
    receipt.note(saved(1), {"step": 1.0})
    monkeypatch.setattr("jobs.receipt.read_ledger", _away)

    with pytest.raises(OSError, match="away"):
        receipt.values()
    monkeypatch.undo()

    assert receipt.values()["receipt/goodput"] == 1.0


def _away(_: Store) -> list[Entry]:
    raise OSError("away")
