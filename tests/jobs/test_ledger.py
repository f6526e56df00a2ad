"""What the ledger says, byte for byte as ever; what is read of it; saves that nobody could tell of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from instruct_core.checkpoints.manifest import Manifest
from instruct_core.events import Evaluated, Event, MadeRoom, NotRemoved, Saved, SaveFailed, SlowRank
from instruct_core.storage.store import Store
from jobs.events import (
    KINDS,
    Asked,
    Changed,
    Crashed,
    Damaged,
    Failed,
    Finished,
    Foreign,
    Paused,
    Requeued,
    Resumed,
    ShortLead,
    Started,
    Stopped,
    Unknown,
    Warned,
)
from jobs.ledger import (
    Entry,
    Ledger,
    newest_timed_save,
    note_crash,
    note_untold_save,
    read_ledger,
    read_newest,
)
from tests.fakes import facts_of

MANIFEST = Manifest(
    global_step=10, attempt=0, world_size=1, saved_at=1234.5678, files=[], **facts_of(10)
)
ALL = [
    (
        Started(3, "7", 2, "cpu", [10, 11], ["a", "a"], 1),
        {"attempt": 3, "job_id": "7", "world_size": 2, "device": "cpu", "pids": [10, 11],
         "hosts": ["a", "a"], "restarts": 1},
        "Attempt 3 started: 2 ranks on cpu",
    ),
    (
        Started(4, "7", 2, "cpu", [10, 11], ["a", "a"], products="oneDNN", parts=2),
        {"attempt": 4, "job_id": "7", "world_size": 2, "device": "cpu", "pids": [10, 11],
         "hosts": ["a", "a"], "restarts": 0, "products": "oneDNN", "parts": 2},
        "Attempt 4 started: 2 ranks on cpu, the model in 2 parts, with products by oneDNN",
    ),
    (Resumed(5), {"step": 5}, "Going on from step 5"),
    (Resumed(0), {"step": 0}, "Beginning at step 0"),
    (Damaged("x is corrupt."), {"message": "x is corrupt."}, "x is corrupt."),
    (Foreign("x belongs to y."), {"message": "x belongs to y."}, "Note: x belongs to y."),
    (Evaluated(5, 2.25), {"step": 5, "val_loss": 2.25}, "Step 5: validation loss 2.2500"),
    (
        Saved(step=5, seconds=0.5, step_seconds=0.125),
        {"step": 5, "seconds": 0.5, "step_seconds": 0.125},
        "Step 5: saved in 0.50 s",
    ),
    (
        Saved(attempt=2, step=5),
        {"attempt": 2, "step": 5},
        "Step 5: saved by attempt 2, which was killed before it could say so",
    ),
    (
        SaveFailed(5, "disk full", 10.0),
        {"step": 5, "error": "disk full", "retry_seconds": 10.0},
        "Step 5: not saved: disk full. Tried again in 10 s; training goes on",
    ),
    (
        SaveFailed(5, "disk full", 10.0, at_end=True),
        {"step": 5, "error": "disk full", "retry_seconds": 10.0, "at_end": True},
        "Step 5: not saved: disk full. Tried again in 10 s; all ranks wait for it",
    ),
    (
        MadeRoom([1, 2]),
        {"steps": [1, 2]},
        "The disk is nearly full: older checkpoints were removed, of steps [1, 2]",
    ),
    (NotRemoved("x"), {"problem": "x"}, "An older checkpoint could not be removed: x"),
    (
        ShortLead(20.0, 86.0),
        {"lead_seconds": 20.0, "needed_seconds": 86.0},
        "Slurm's warning comes 20 s before the end, and a step and a save need 86 s: the run will "
        "stop by itself in time",
    ),
    (
        Warned(5, "SIGUSR2", 0.5),
        {"step": 5, "signal": "SIGUSR2", "seconds": 0.5},
        "Step 5: warned by SIGUSR2, all ranks saved",
    ),
    (
        SlowRank(40, 1, 0.3, 0.1, "node2", "NVIDIA H100"),
        {"step": 40, "rank": 1, "seconds": 0.3, "usual_seconds": 0.1, "node": "node2",
         "gpu": "NVIDIA H100"},
        "Step 40: rank 1 on node2 (NVIDIA H100) is slow: its own part of a step takes 0.300 s, that of "
        "the others 0.100 s",
    ),
    (
        Changed(["driver 570 -> 580", "torch 2.13 -> 2.14"], ["torch 2.13 -> 2.14"]),
        {"what": ["driver 570 -> 580", "torch 2.13 -> 2.14"], "may_alter_bits": ["torch 2.13 -> 2.14"]},
        "torch 2.13 -> 2.14, since the last attempt: this may alter bits",
    ),
    (Requeued(5), {"step": 5}, "Requeued: the next attempt goes on from step 5"),
    (Stopped(5), {"step": 5}, "Step 5: stopped"),
    (Paused(5), {"step": 5}, "Step 5: paused"),
    (
        Asked(5, "extend", "anna@login1", 40),
        {"step": 5, "verb": "extend", "by": "anna@login1", "steps": 40},
        "Step 5: extend to 40, asked for by anna@login1",
    ),
    (Failed("x"), {"error": "x"}, "Failed: x"),
    (Finished(5), {"step": 5}, "Step 5: finished"),
    (
        Crashed("x", "node1", True),
        {"error": "x", "node": "node1", "comes_back": True},
        "Crashed: x",
    ),
]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The ledger of a run that was killed after step 5, or while it committed step 10."""
    store = Store(tmp_path)
    Ledger(store, attempt=0).note(Saved(step=5, seconds=2.0, step_seconds=0.5))
    return store


def saves_of(store: Store) -> list[Entry]:
    return [entry for entry in read_ledger(store) if isinstance(entry.event, Saved)]


def leave(store: Store, *documents: object) -> None:
    """Write the ledger of another version as attempt 1."""
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    store.replace("attempt-0001.jsonl", lines.encode())


@pytest.mark.parametrize(("event", "facts", "sentence"), ALL)
def test_event_has_its_keys_in_their_order_and_comes_back(
    tmp_path: Path, event: Event, facts: dict[str, object], sentence: str
) -> None:
    Ledger(Store(tmp_path), attempt=3).note(event, utc_seconds=1.23456)

    document = {"utc_seconds": 1.235, "event": event.name, **facts}
    assert (tmp_path / "attempt-0003.jsonl").read_text() == json.dumps(document) + "\n"
    [entry] = read_ledger(Store(tmp_path))
    assert entry == (facts.get("attempt", 3), 1.235, event, {})
    assert str(entry.event) == sentence


def test_line_of_now_says_where_the_seconds_of_its_attempt_went(store: Store) -> None:
    ledger = Ledger(store, attempt=1, spent=lambda: {"step": 2.5})
    ledger.note(Resumed(3))
    ledger.note(Saved(attempt=0, step=3), utc_seconds=5.0)  # another attempt's

    _, mine, other = read_ledger(store)
    assert (mine.event, mine.spent) == (Resumed(3), {"step": 2.5})
    assert other.spent == {}


def test_event_is_one_line_of_the_log_whatever_it_quotes(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    Ledger(store, 0).note(Crashed("a row says\nstep 5 of 9\x85saved", "node1"))

    [record] = caplog.records
    assert record.getMessage().startswith("crashed error a row says step 5 of 9 saved, node node1")
    assert len(record.getMessage().splitlines()) == 1


def test_every_kind_is_tried_above() -> None:
    assert {event.name for event, _, _ in ALL} == set(KINDS)


def test_crash_is_added_to_what_its_attempt_has_said(store: Store) -> None:
    note_crash(store, 0, Crashed("x", "node1", comes_back=True))

    assert [entry.event.name for entry in read_ledger(store)] == ["saved", "crashed"]


def test_event_of_a_newer_version_is_kept_as_it_is(store: Store) -> None:
    leave(store, {"utc_seconds": 1.5, "event": "moved", "step": 3, "to": "node2"})

    event = read_ledger(store)[-1].event

    assert event == Unknown("moved", {"step": 3, "to": "node2"})
    assert str(event) == "moved: step 3, to node2"


@pytest.mark.parametrize("facts", [{}, {"step": "3"}, {"step": None}, {"steps": 3}])
def test_event_with_fields_of_another_version_is_kept_as_it_is(
    store: Store, facts: dict[str, object]
) -> None:
    leave(store, {"utc_seconds": 1.5, "event": "resumed", **facts})

    assert read_ledger(store)[-1].event == Unknown("resumed", facts)


def test_field_of_a_newer_version_is_left_out(store: Store) -> None:
    leave(store, {"utc_seconds": 1.5, "event": "resumed", "step": 3, "colour": "red"})

    assert read_ledger(store)[-1].event == Resumed(3)


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"3", b"[]", b'{"event": "resumed", "step": 3}', b"\xff\0\0", b'{"event": "resu',
        b'{"utc_seconds": NaN, "event": "resumed", "step": 3}',
        b'{"utc_seconds": -1e300, "event": "resumed", "step": 3}',
        b'{"utc_seconds": Infinity, "event": "resumed", "step": 3}',
        b'{"utc_seconds": 1e18, "event": "resumed", "step": 3}',
        b'{"utc_seconds": 2.0, "event": "resumed", "step": 3, "spent": {"step": NaN}}',
        b'{"utc_seconds": 2.0, "event": "resumed", "step": 3, "spent": {"step": -1.0}}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_line_that_is_none_of_ours_is_shown_and_the_rest_is_read(store: Store, line: bytes) -> None:
    good = b'{"utc_seconds": 1.5, "event": "resumed", "step": 3}'
    store.replace("attempt-0001.jsonl", b"\n".join([good, line, b"", good, b""]))
    store.replace("attempt-old.jsonl", b"none of ours")

    _, *read = read_ledger(store)

    assert [entry.event.name for entry in read] == ["resumed", "unknown", "resumed"]
    assert "attempt-0001.jsonl:2 is no line of a ledger" in str(read[1].event)
    assert read[1].utc_seconds == 1.5


def test_untold_save_is_told_once_as_that_of_the_attempt_that_made_it(store: Store) -> None:
    note_untold_save(Ledger(store, attempt=1), store, MANIFEST)
    note_untold_save(Ledger(store, attempt=2), store, MANIFEST)

    _, untold = saves_of(store)
    assert untold == (0, 1234.568, Saved(attempt=0, step=10), {})


def test_save_that_was_told_is_not_told_again(store: Store) -> None:
    note_untold_save(Ledger(store, attempt=1), store, replace(MANIFEST, global_step=5))

    assert len(saves_of(store)) == 1


def test_step_that_was_damaged_and_made_again_is_another_save(store: Store) -> None:
    note_untold_save(Ledger(store, attempt=2), store, replace(MANIFEST, global_step=5, attempt=1))

    told = [(attempt, event.facts["step"]) for attempt, _, event, _ in saves_of(store)]
    assert told == [(0, 5), (1, 5)]


@pytest.mark.parametrize(
    ("saved_in", "files"), [((), [0, 1, 2]), ((0,), [0, 1, 2]), ((0, 1), [1, 2])]
)
def test_newest_events_go_back_to_the_attempt_that_saved_last(
    store: Store, saved_in: tuple[int, ...], files: list[int]
) -> None:
    for attempt in range(3):
        ledger = Ledger(store, attempt)
        ledger.note(Resumed(5 * attempt))
        if attempt in saved_in:
            ledger.note(Saved(step=5 * attempt + 5, seconds=1.0))

    newest = read_newest(store)

    assert newest == [entry for entry in read_ledger(store) if entry.attempt in files]


def test_duration_of_a_save_is_that_of_the_newest_that_tells_it(store: Store) -> None:
    assert newest_timed_save(Store(store.url + "-other")) is None

    note_untold_save(Ledger(store, attempt=1), store, MANIFEST)

    assert newest_timed_save(store) == Saved(step=5, seconds=2.0, step_seconds=0.5)


def test_file_of_an_attempt_that_is_there_already_is_added_to(tmp_path: Path) -> None:
    """Numbers begin anew where a run's checkpoints are gone, and its ledger is not."""
    store = Store(tmp_path)
    Ledger(store, attempt=0).note(Saved(step=5))

    Ledger(store, attempt=0).note(Resumed(step=0))

    assert [entry.event for entry in read_ledger(store)] == [Saved(step=5), Resumed(step=0)]
