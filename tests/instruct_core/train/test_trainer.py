"""What the loop does on one rank: saves, warnings, ends that are moved, and what evaluation reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event as Moment

import pytest
import torch

from instruct_core.checkpoints import saves as saving
from instruct_core.checkpoints.retention import Keep, Removed
from instruct_core.checkpoints.saves import Saves
from instruct_core.checkpoints.snapshot import Snapshot
from instruct_core.checkpoints.steps import committed_steps
from instruct_core.events import Evaluated, Saved
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.products import ONEDNN, USUAL, products_by
from instruct_core.train import gradients
from instruct_core.train.wishes import Wishes
from tests.conftest import wait_for
from tests.instruct_core.train.desk import CONFIG, TINY, Desk


def test_weights_change_only_when_the_save_before_has_its_copy(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state so large that it is copied and written beside the next step."""
    monkeypatch.setattr(saving, "WRITTEN_AT_ONCE_BYTES", 0)
    snapshots: list[Snapshot] = []
    may_copy, write, hold = Moment(), desk.checkpoints.write, Saves.hold_update

    def write_late(snapshot: Snapshot, keep: Keep) -> Removed:
        snapshots.append(snapshot)
        assert may_copy.wait(60), "the next update waits for the copy"
        return write(snapshot, keep)

    def hold_update(self: Saves) -> None:
        may_copy.set()
        hold(self)

    def step(left_out: torch.Tensor) -> None:
        assert all(snapshot.copied.is_set() for snapshot in snapshots)
        update(left_out)

    monkeypatch.setattr(desk.checkpoints, "write", write_late)
    monkeypatch.setattr(Saves, "hold_update", hold_update)
    trainer = desk.trainer(replace(CONFIG, max_steps=3, save_every=1, eval_every=100))
    update = trainer._optimizer.step
    monkeypatch.setattr(trainer._optimizer, "step", step)

    assert trainer.run() == "finished"

    assert [snapshot.step for snapshot in snapshots] == [1, 2, 3]


def test_warning_is_answered_at_the_next_step_with_a_save(desk: Desk) -> None:
    desk.stop = lambda: len(desk.reports) >= 1

    assert desk.trainer(replace(CONFIG, max_steps=50, save_every=100)).run() == "stopped"

    assert committed_steps(desk.checkpoints.store) == [2]


@pytest.mark.parametrize("library", [USUAL, ONEDNN])
def test_stopped_run_ends_with_the_bits_of_one_that_was_left_alone(
    tmp_path: Path, shard_set: Path, library: str
) -> None:
    ends = []
    with products_by(library):
        for stops_at in (None, 2):
            desk = Desk(tmp_path / str(stops_at), shard_set)
            desk.stop = lambda desk=desk, at=stops_at: len(desk.reports) == at  # type: ignore[misc]
            outcome = desk.trainer(CONFIG).run()
            while outcome == "stopped":
                desk.reports.clear()
                outcome = desk.trainer(CONFIG).run()
            ends.append(desk.model.state_dict())

    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("looks_before", [0, 1])
def test_evaluation_interrupted_by_a_warning_is_made_up_for_after_the_resume(
    desk: Desk, looks_before: int
) -> None:
    """The ranks vote, and then look before each batch of the evaluation."""
    looks = iter(range(10**6))
    desk.stop = lambda: next(looks) >= looks_before
    trainer = desk.trainer(CONFIG)
    assert trainer.run() == "stopped"
    assert trainer.progress.global_step == 0
    desk.stop = lambda: False

    desk.trainer(CONFIG).run()

    evaluated = [event.step for event in desk.events if isinstance(event, Evaluated)]
    assert evaluated == [0, 2, 4]


def test_validation_loss_reads_every_row_once_for_any_micro_batch_size(desk: Desk) -> None:
    found = []
    for size in (1, 4):
        desk.events.clear()
        desk.trainer(replace(CONFIG, micro_batch_size=size, max_steps=1)).run()
        found.append(desk.events[0].facts["val_loss"])
        desk.checkpoints.store.remove("step-00000001")
        desk.checkpoints.store.remove("committed.json")
        desk.model.initialize(1)

    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_finished_run_goes_on_when_its_end_is_moved(desk: Desk) -> None:
    desk.trainer(CONFIG).run()

    trainer = desk.trainer(replace(CONFIG, max_steps=6))
    assert trainer.progress.global_step == 4
    assert trainer.run() == "finished"

    assert trainer.progress.samples_seen == 6 * CONFIG.global_batch_size


def test_long_step_is_given_up_when_warned_and_made_again_with_the_same_bits(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory, shard_set: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    desk.model = GPT2(TINY, dropout=0.1)
    desk.model.initialize(1)
    config = replace(CONFIG, dropout=0.1)
    other = Desk(tmp_path_factory.mktemp("undisturbed"), shard_set)
    other.model = GPT2(TINY, dropout=0.1)
    other.model.initialize(1)
    other.trainer(config).run()
    monkeypatch.setattr(gradients, "STOP_PATIENCE_SECONDS", 0.0)
    asked = iter(range(10**6))
    # Evaluation asks before each of its batches; the warning comes inside a later step.
    desk.stop = lambda: next(asked) > 12

    trainer = desk.trainer(config)
    assert trainer.run() == "stopped"
    given_up_at = trainer.progress.global_step
    desk.stop = lambda: False
    desk.trainer(config).run()

    assert 0 <= given_up_at < CONFIG.max_steps
    expected = other.model.state_dict()
    assert all(torch.equal(expected[n], v) for n, v in desk.model.state_dict().items())


def test_save_that_somebody_asks_for_is_made_before_the_next_step_and_once(desk: Desk) -> None:
    desk.wishes = lambda: Wishes(save=len(desk.reports) == 1 and not desk.done)

    desk.trainer(replace(CONFIG, max_steps=5, save_every=100, eval_every=100)).run()

    assert desk.done == [("save", 2)]
    assert committed_steps(desk.checkpoints.store) == [2, 5]


@pytest.mark.parametrize("at_report", [1, 4])
def test_end_that_is_moved_while_the_run_trains_gives_the_bits_of_one_begun_so(
    desk: Desk, at_report: int, tmp_path_factory: pytest.TempPathFactory, shard_set: Path
) -> None:
    other = Desk(tmp_path_factory.mktemp("undisturbed"), shard_set)
    other.trainer(replace(CONFIG, max_steps=7)).run()
    desk.wishes = lambda: Wishes(max_steps=7 if len(desk.reports) >= at_report - 1 else 0)

    trainer = desk.trainer(CONFIG)
    assert trainer.run() == "finished"

    assert [wish for wish, _ in desk.done] == ["extend"]
    assert trainer.progress.global_step == 7
    expected = other.model.state_dict()
    assert all(torch.equal(expected[n], v) for n, v in desk.model.state_dict().items())


def test_save_that_was_written_beside_training_is_told_in_a_phase_that_may_take_its_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger may lie in a store that is away for minutes: a step that took as long would hang."""
    monkeypatch.setattr(saving, "WRITTEN_AT_ONCE_BYTES", 0)
    trainer = desk.trainer(replace(CONFIG, max_steps=4, save_every=2, eval_every=100))
    background = trainer._saves._background

    def is_written() -> bool:
        wait_for(lambda: background.done or not background.busy, "the save")
        return False

    desk.stop = is_written

    assert trainer.run() == "finished"

    assert (Saved, "settling") in desk.told_in
    assert "step" not in {phase for kind, phase in desk.told_in if kind is Saved}
