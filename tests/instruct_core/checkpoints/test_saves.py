"""When a run saves: beside training, one at a time, again after a failure, and at last not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from instruct_core.checkpoints import saves as saving
from instruct_core.checkpoints.steps import committed_steps
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.errors import FencedError, LateSaveError, UnsavedError
from tests.instruct_core.checkpoints.slow_disk import CONFIG, SECONDS, Desk


@pytest.fixture(autouse=True)
def large_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large enough to be written beside training."""
    monkeypatch.setattr(saving, "WRITTEN_AT_ONCE_BYTES", 0)
    monkeypatch.setattr(saving, "FIRST_RETRY_SECONDS", 0.0)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, CONFIG)
    yield desk
    desk.checkpoints.go.set()


def test_training_goes_on_while_a_save_is_written(desk: Desk) -> None:
    desk.train_to(5)
    real = desk.checkpoints._images
    copied = threading.Event()
    desk.checkpoints._images = lambda snapshot: (real(snapshot), copied.set())[0]  # type: ignore[method-assign]

    desk.saves.begin(5)  # returns while the writer still waits
    assert committed_steps(desk.checkpoints.store) == []
    assert desk.saves.votes()[1] == 0.0
    desk.checkpoints.go.set()
    assert copied.wait(SECONDS)
    desk.train_to(6)
    desk.wait_until_written()
    desk.saves.look()

    assert desk.names() == ["saved"]
    assert desk.saves.saved_step == 5
    assert desk.saved_weight() == (5, 5.0)


def test_update_waits_until_the_state_is_copied(desk: Desk) -> None:
    desk.train_to(5)
    desk.saves.begin(5)
    updated = threading.Event()
    trainer = threading.Thread(target=lambda: (desk.train_to(6), updated.set()))

    trainer.start()
    too_early = updated.wait(0.2)
    desk.checkpoints.go.set()
    trainer.join(SECONDS)
    desk.wait_until_written()
    desk.saves.look()

    assert not too_early
    assert updated.is_set()
    assert desk.saved_weight() == (5, 5.0)


def test_failed_copy_does_not_hold_the_update_for_ever(desk: Desk) -> None:
    desk.checkpoints._staging.image = None  # type: ignore[assignment,method-assign]
    desk.checkpoints.go.set()
    desk.saves.begin(5)

    desk.train_to(6)
    desk.wait_until_written()

    with pytest.raises(TypeError):
        desk.saves.look()


def test_one_save_is_in_flight_at_a_time(desk: Desk) -> None:
    desk.checkpoints.go.set()
    for step in range(1, 6):
        desk.train_to(step)
        desk.saves.begin(step)
    desk.saves.finish(5, lambda: False)

    assert desk.checkpoints.most_writing == 1
    assert [event.facts["step"] for event in desk.events] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("newer", [False, True])
def test_stop_waits_for_the_save_in_flight_and_saves_again_if_it_is_newer(
    desk: Desk, newer: bool
) -> None:
    desk.train_to(5)
    desk.saves.begin(5)
    desk.checkpoints.go.set()
    if newer:
        desk.train_to(6)

    desk.saves.finish(desk.step, lambda: True)

    assert [event.facts["step"] for event in desk.events] == ([5, 6] if newer else [5])
    assert desk.saved_weight() == (desk.step, float(desk.step))


def test_synchronous_save_is_committed_when_it_returns(tmp_path: Path) -> None:
    desk = Desk(tmp_path, replace(CONFIG, async_save=False))
    desk.checkpoints.go.set()
    desk.train_to(5)

    desk.saves.begin(5)

    assert committed_steps(desk.checkpoints.store) == [5]


def test_small_state_is_committed_when_it_returns(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run of short steps that is killed loses no more than a save interval."""
    monkeypatch.setattr(saving, "WRITTEN_AT_ONCE_BYTES", 64 << 20)
    desk.checkpoints.go.set()
    desk.train_to(5)

    desk.saves.begin(5)

    assert committed_steps(desk.checkpoints.store) == [5]


def test_failed_save_is_reported_and_tried_again_with_a_later_step(desk: Desk) -> None:
    desk.checkpoints.failures = 2
    desk.checkpoints.go.set()
    for step in range(1, 4):
        desk.train_to(step)
        due, _ = desk.saves.votes()
        assert bool(due) == (step > 1), "after a failure a save is due"
        desk.saves.begin(step)
        desk.wait_until_written()
        desk.saves.look()

    assert desk.names() == ["save_failed", "save_failed", "saved"]
    assert "the disk says no" in desk.events[0].facts["error"]
    assert str(desk.events[0]).endswith("; training goes on")
    assert desk.saved_weight() == (3, 3.0)
    assert desk.saves.votes()[0] == 0.0


def test_run_whose_folder_was_renamed_makes_no_other_and_saves_where_it_is_back(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path / "r", CONFIG)
    desk.save(1)
    (tmp_path / "r").rename(tmp_path / "renamed")

    desk.save(2)

    assert not (tmp_path / "r").exists()
    assert desk.names() == ["saved", "save_failed"]
    assert "the claim of attempt 0 is not in it" in desk.events[-1].facts["error"]

    (tmp_path / "renamed").rename(tmp_path / "r")
    desk.save(3)

    assert desk.saved_weight() == (3, 3.0)


def test_pauses_between_tries_grow(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "FIRST_RETRY_SECONDS", 5.0)
    desk.checkpoints.failures = 8
    desk.checkpoints.go.set()
    for step in range(1, 9):
        desk.saves.begin(step)
        desk.saves._settle()

    pauses = [event.facts["retry_seconds"] for event in desk.events]
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    assert desk.saves.votes()[0] == 0.0, "not due before its time"


def test_run_ends_only_without_a_good_checkpoint_for_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(saving, "monotonic", lambda: clock[0])
    desk = Desk(tmp_path, replace(CONFIG, max_unsaved_minutes=10, async_save=False))
    desk.checkpoints.go.set()
    desk.checkpoints.failures = 100
    for minute in range(10):
        clock[0] = 1000.0 + 60 * minute
        desk.saves.begin(minute)
    desk.checkpoints.failures = 0
    desk.train_to(10)
    desk.saves.begin(10)  # saved: the patience begins anew
    desk.checkpoints.failures = 100

    clock[0] += 60 * 9
    for step in range(11, 15):
        desk.saves.begin(step)
    clock[0] += 61
    with pytest.raises(UnsavedError, match=r"has not saved for 10\.\d minutes.*the disk says no"):
        desk.saves.begin(15)

    assert committed_steps(desk.checkpoints.store) == [10]


def test_run_that_cannot_save_at_a_stop_says_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(saving, "sleep", slept.append)
    desk.save(5)  # an older one is not what is asked for
    desk.checkpoints.failures = 100

    said = "Step 7 could not be saved before the end: the disk says no"
    with pytest.raises(LateSaveError, match=said):
        desk.saves.finish(7, lambda: True)

    assert slept == [1.0, 2.0, 4.0]


def test_end_of_a_run_waits_for_a_disk_that_comes_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "POLL_SECONDS", 0.0)
    desk.save(5)
    desk.checkpoints.failures = 6
    desk.train_to(9)

    desk.saves.finish(9, lambda: False)

    assert desk.names() == ["saved", *["save_failed"] * 6, "saved"]
    assert str(desk.events[1]).endswith("; all ranks wait for it")
    assert committed_steps(desk.checkpoints.store) == [5, 9]


def test_end_of_a_run_asks_every_half_minute(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is over: nobody has anything from a longer pause."""
    waits: list[float] = []
    monkeypatch.setattr(saving, "FIRST_RETRY_SECONDS", 5.0)
    monkeypatch.setattr(desk.saves, "_wait", lambda seconds, stop: waits.append(seconds))
    desk.checkpoints.failures = 6
    desk.checkpoints.go.set()
    desk.train_to(9)

    desk.saves.finish(9, lambda: False)

    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0, 30.0]


def test_attempt_that_was_overtaken_ends_at_its_next_save(desk: Desk) -> None:
    Checkpoints(desk.checkpoints.store).claim_attempt()
    desk.checkpoints.go.set()
    desk.saves.begin(3)
    desk.wait_until_written()

    with pytest.raises(FencedError, match="belongs to attempt 1 now; this is attempt 0"):
        desk.saves.look()


def test_save_is_due_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(saving, "monotonic", lambda: clock[0])
    desk = Desk(tmp_path, replace(CONFIG, save_every_minutes=2.0, async_save=False))
    desk.checkpoints.go.set()

    def due_after(seconds: float) -> bool:
        clock[0] += seconds
        return bool(desk.saves.votes()[0])

    assert not due_after(119)
    assert due_after(2)
    desk.saves.begin(1)
    assert not due_after(119)
    assert due_after(2)


def test_time_that_training_waited_is_told_once(desk: Desk) -> None:
    desk.checkpoints.go.set()
    desk.saves.begin(1)
    desk.saves.hold_update()

    assert desk.saves.take_stall_seconds() > 0
    assert desk.saves.take_stall_seconds() == 0
