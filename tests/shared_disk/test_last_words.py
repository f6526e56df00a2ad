"""
The end of an attempt on a disk that fails at just that moment: its last event, progress, samples and
curves are written.

Nothing comes after them that would write them with it. Every operation of the end is refused in turn,
and those after it, for as many tries as a disk that is away for half a minute refuses.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from instruct_core.config import PRESETS
from instruct_core.events import Evaluated, Saved
from instruct_core.storage import patience
from instruct_core.storage.store import Store
from jobs.events import Crashed, Finished, Requeued, Resumed
from jobs.job_folder import read_progress
from jobs.ledger import note_crash
from launch.runs.curves import read_curves
from tests.conftest import events_of, samples_of
from tests.jobs.reporters import reporter_in
from tests.shared_disk.faults import ALL, WRITE, Fault, Kind
from tests.shared_disk.mount import SharedDisk, needs_fuse
from tests.slow_clock import Clock

pytestmark = needs_fuse


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    monkeypatch.setattr("jobs.reporter.time", clock)
    monkeypatch.setattr("jobs.records.time", clock)
    return clock


def curve_in(folder: Path) -> list[tuple[int, float]]:
    """Return the validation loss as TensorBoard shows it."""
    return read_curves(Store(folder / "r"), ["val/loss"]).curves.get("val/loss", [])


# A disk that a warned run has is not waited for as long: four tries.
@pytest.mark.parametrize(("end", "refusals"), [(Finished(4), 9), (Requeued(4), 3)])
@pytest.mark.parametrize("kind", ["EIO", "EDQUOT", "lost"])
def test_end_of_an_attempt_is_told_whichever_of_its_operations_is_refused(
    disk: SharedDisk,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    end: Finished | Requeued,
    refusals: int,
) -> None:
    for number in itertools.count():
        name = f"{kind}-{end.name}-{number}"
        reporter = reporter_in(disk.path / name, monkeypatch, record_samples=True)
        reporter.resumed(0, PRESETS["tiny"])
        reporter.on_read(0, [1, 2])
        before = disk.counts().get(kind, {}).get("refused", 0)
        operations = WRITE if kind == "EDQUOT" else ALL
        disk.plan([Fault(kind, operations, f"/{name}/*", skips=number, times=refusals)])

        reporter.on_read(1, [3, 4])
        reporter.on_event(Evaluated(4, 2.0))
        reporter.ended(end, is_warned=isinstance(end, Requeued))

        disk.heal()
        told = [event["event"] for event in events_of(disk.folder / name / "r")]
        assert told == ["resumed", "evaluated", end.name], number
        assert curve_in(disk.folder / name) == [(4, 2.0)], number
        assert samples_of(disk.folder / name / "r") == {0: {1, 2}, 1: {3, 4}}, number
        assert read_progress(disk.folder / name / "job").state == end.name
        reporter.close()
        if disk.counts().get(kind, {}).get("refused", 0) == before:
            assert number > 3, "nothing was refused at all"
            return


@pytest.mark.parametrize("kind", ["EIO", "EDQUOT", "lost"])
def test_steps_are_told_before_they_are_saved_whichever_operation_is_refused(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """Once they are saved nobody makes them again, and the rank may be killed at any moment."""
    for number in itertools.count():
        name = f"{kind}-save-{number}"
        reporter = reporter_in(disk.path / name, monkeypatch, record_samples=True)
        reporter.resumed(0, PRESETS["tiny"])
        before = disk.counts().get(kind, {}).get("refused", 0)
        operations = WRITE if kind == "EDQUOT" else ALL
        disk.plan([Fault(kind, operations, f"/{name}/r/*", skips=number, times=4)])
        reporter.on_read(0, [1, 2])
        reporter.on_event(Evaluated(1, 2.0))

        reporter.working("save")

        disk.heal()
        told = [event["event"] for event in events_of(disk.folder / name / "r")]
        assert told == ["resumed", "evaluated"], number
        assert samples_of(disk.folder / name / "r") == {0: {1, 2}}, number
        assert curve_in(disk.folder / name) == [(1, 2.0)], number
        reporter.close()
        if disk.counts().get(kind, {}).get("refused", 0) == before:
            assert number > 3, "nothing was refused at all"
            return


def test_save_waits_once_for_a_disk_that_takes_no_samples(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    reporter = reporter_in(disk.path / "samples", monkeypatch, record_samples=True)
    reporter.resumed(0, PRESETS["tiny"])
    disk.plan([Fault("EDQUOT", WRITE, "/samples/*")])
    began_at = clock.now

    for step in range(5):
        reporter.on_read(step, [step])
        reporter.working("save")

    assert clock.now - began_at <= 10
    disk.heal()
    reporter.working("save")
    assert samples_of(disk.folder / "samples" / "r") == {step: {step} for step in range(5)}


def test_ledger_and_save_wait_once_for_a_disk_that_is_away(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    reporter = reporter_in(disk.path / "once", monkeypatch, record_samples=True)
    reporter.resumed(0, PRESETS["tiny"])
    for number in range(2):  # a second time away is waited for again
        began_at = clock.now
        disk.plan([Fault("EIO", WRITE, "/once/r/*")])

        reporter.on_read(number, [number])
        reporter.on_event(Evaluated(number, 2.0))
        reporter.working("save")

        assert 5 < clock.now - began_at <= 10, number
        disk.heal()
        reporter.working("save")
    told = [event["event"] for event in events_of(disk.folder / "once" / "r")]
    assert told == ["resumed", "evaluated", "evaluated"]
    reporter.close()


def test_ledger_does_not_wait_for_a_disk_that_a_save_has_waited_for(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    reporter = reporter_in(disk.path / "behind", monkeypatch, record_samples=True)
    reporter.resumed(0, PRESETS["tiny"])
    began_at = clock.now
    disk.plan([Fault("EIO", WRITE, "/behind/r/*")])

    reporter.on_read(0, [0])
    reporter.working("save")
    reporter.note(Saved(step=1))

    assert clock.now - began_at <= 10
    disk.heal()
    reporter.working("save")
    told = [event["event"] for event in events_of(disk.folder / "behind" / "r")]
    assert told == ["resumed", "saved"]


def test_warned_rank_saves_before_it_tells(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Its time is short: a disk that takes no words for a while must not cost it the save."""
    reporter = reporter_in(disk.path / "warned", monkeypatch, record_samples=True)
    reporter.resumed(0, PRESETS["tiny"])
    monkeypatch.setattr(reporter._guard, "asked", lambda: True)
    disk.plan([Fault("EIO", WRITE, "/warned/r/*")])
    reporter.on_read(0, [1, 2])
    began_at = clock.now

    reporter.working("save")

    assert clock.now == began_at
    disk.heal()
    reporter.ended(Requeued(1), is_warned=True)
    told = [event["event"] for event in events_of(disk.folder / "warned" / "r")]
    assert told == ["resumed", "requeued"]
    assert samples_of(disk.folder / "warned" / "r") == {0: {1, 2}}


def test_disk_that_stays_full_ends_a_run_after_a_minute(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    reporter = reporter_in(disk.path / "full", monkeypatch)
    began_at = clock.now
    disk.plan([Fault("EDQUOT", WRITE, "/full/*")])

    reporter.ended(Finished(4), is_warned=False)

    disk.heal()
    assert 50 < clock.now - began_at <= 60


def test_training_waits_once_for_a_ledger_that_cannot_be_written(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    reporter = reporter_in(disk.path / "away", monkeypatch)
    began_at = clock.now
    disk.plan([Fault("EIO", WRITE, "/away/*")])

    for step in range(5):
        reporter.note(Saved(step=step))

    assert clock.now - began_at <= 10
    disk.heal()
    reporter.note(Finished(4))
    text = (disk.folder / "away" / "r" / "attempt-0000.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [0, 1, 2, 3, 4, 4]


def test_crash_told_from_another_node_keeps_what_the_attempt_has_told(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """That node remembers that there was no such file."""
    with SharedDisk(disk.folder, tmp_path / "two", late_seconds=60.0) as other:
        (disk.folder / "crash" / "r").mkdir(parents=True)
        store = Store(other.path / "crash" / "r")
        assert not store.exists("attempt-0000.jsonl")
        reporter_in(disk.path / "crash", monkeypatch).note(Resumed(0))

        note_crash(store, 0, Crashed("killed.", "", True))

        told = [event["event"] for event in events_of(disk.folder / "crash" / "r")]
        assert told == ["resumed", "crashed"]


@pytest.mark.parametrize("kind", ["EIO", "EDQUOT"])
def test_crash_is_told_by_a_disk_that_refuses_it_for_a_while_for_whatever_reason(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    folder = f"refused-{kind}"
    reporter_in(disk.path / folder, monkeypatch).note(Resumed(0))
    disk.plan([Fault(kind, WRITE, times=4)])

    note_crash(Store(disk.path / folder / "r"), 0, Crashed("killed.", "", True))

    disk.heal()
    told = [event["event"] for event in events_of(disk.folder / folder / "r")]
    assert told == ["resumed", "crashed"]
