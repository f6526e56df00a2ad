"""What the loop does on one rank when numbers go wrong, and what evaluation reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event as Moment

import pytest
import torch

from instruct_core.checkpoints import saves as saving
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep, Removed
from instruct_core.checkpoints.saves import Saves
from instruct_core.checkpoints.steps import committed_steps
from instruct_core.checkpoints.writer import Checkpoints, Snapshot
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.batches import LossOn, SampleReader
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.errors import NonFiniteError
from instruct_core.events import Evaluated, Event, Saved
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.products import ONEDNN, USUAL, products_by
from instruct_core.storage.store import Store
from instruct_core.train import gradients
from instruct_core.train.progress import Setup, StepReport
from instruct_core.train.trainer import Trainer
from instruct_core.train.wishes import Wishes
from tests.conftest import wait_for

CONFIG = TrainConfig(
    "r", "s", "c", "t", "random", "tiny", "f", max_steps=4, seq_len=64, micro_batch_size=2,
    tokens_per_step=256, learning_rate=1e-3, warmup_steps=0, eval_every=2, save_every=2,
)  # fmt: skip


TINY = replace(PRESETS["tiny"], vocab_size=1000)


class Desk:
    """A trainer's surroundings, with all it reported."""

    def __init__(self, folder: Path, shard_set: Path) -> None:
        self.events: list[Event] = []
        self.reports: list[StepReport] = []
        self.model = GPT2(TINY)
        self.model.initialize(1)
        self.stop: Callable[[], bool] = lambda: False
        self.wishes: Callable[[], Wishes] = Wishes
        self.done: list[tuple[str, int]] = []
        self.phases: list[str] = []
        self.told_in: list[tuple[type[Event], str]] = []
        self.checkpoints = Checkpoints(Store(folder))
        self.checkpoints.claim_attempt()
        self.readers = {}
        for split in ("train", "val"):
            rows = ShardSet(Store(shard_set), split)
            self.readers[split] = SampleReader(rows, pack(rows.lengths(), 64, 1), "all")
        self.val_rows = ShardSet(Store(shard_set), "val")

    def learn(self, loss_on: LossOn) -> None:
        """Learn all tokens, or those of responses."""
        reader = self.readers["train"]
        self.readers["train"] = SampleReader(reader._rows, reader._packing, loss_on)

    def on_event(self, event: Event) -> None:
        """Take what the trainer tells, and in which phase."""
        self.events.append(event)
        self.told_in.append((type(event), self.phases[-1]))

    def trainer(self, config: TrainConfig) -> Trainer:
        setup = Setup(
            model=self.model,
            device=torch.device("cpu"),
            train=self.readers["train"],
            val=self.readers["val"],
            val_rows=self.val_rows,
            checkpoints=self.checkpoints,
            facts={},
            config_file={},
            stop=lambda: self.stop(),  # noqa: PLW0108  a test may replace it
            working=self.phases.append,
            on_event=self.on_event,
            on_step=self.reports.append,
            on_samples=lambda step, samples: None,
            on_read=lambda step, samples: None,
            wishes=lambda: self.wishes(),  # noqa: PLW0108
            on_wish=lambda wish, step: self.done.append((wish, step)),
        )
        return Trainer(config, setup, load_newest(self.checkpoints))


@pytest.fixture
def desk(tmp_path: Path, shard_set: Path) -> Desk:
    return Desk(tmp_path, shard_set)


def poison(model: GPT2, steps: set[int]) -> None:
    """Make the gradient of some steps not finite."""
    calls = iter(range(10**6))

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan") if next(calls) in steps else gradient

    model.transformer.ln_f.bias.register_hook(hook)


def test_update_of_a_step_that_is_not_finite_is_left_out_and_counted(desk: Desk) -> None:
    poison(desk.model, {0, 1, 2})
    before = {name: value.clone() for name, value in desk.model.state_dict().items()}
    # Two micro-batches a step: both belong to step 0, the third poisons step 1.
    trainer = desk.trainer(replace(CONFIG, max_steps=2))

    assert trainer.run() == "finished"

    assert trainer.progress.skipped_steps == 2
    assert all(torch.equal(before[name], v) for name, v in desk.model.state_dict().items())


def test_ten_steps_in_a_row_that_are_not_finite_end_the_run(desk: Desk) -> None:
    poison(desk.model, set(range(1000)))

    with pytest.raises(NonFiniteError, match="10 steps in a row without a finite gradient"):
        desk.trainer(replace(CONFIG, max_steps=50, save_every=100)).run()


def test_steps_without_a_finite_gradient_push_out_no_good_checkpoint(desk: Desk) -> None:
    poison(desk.model, set(range(4, 1000)))  # from step 3 on

    with pytest.raises(NonFiniteError, match="the last checkpoint is from before"):
        desk.trainer(replace(CONFIG, max_steps=50, save_every=1, keep_checkpoints=2)).run()

    assert committed_steps(desk.checkpoints.store) == [1, 2]


def test_save_that_is_due_at_such_a_step_comes_with_the_next_good_one(desk: Desk) -> None:
    poison(desk.model, {2, 3})  # both micro-batches of step 2

    assert desk.trainer(replace(CONFIG, max_steps=4, save_every=2)).run() == "finished"

    assert committed_steps(desk.checkpoints.store) == [3, 4]


def test_run_whose_weights_are_broken_at_its_last_step_has_not_finished(desk: Desk) -> None:
    with pytest.raises(NonFiniteError, match="last step, 3, with a validation loss of nan"):
        desk.trainer(replace(CONFIG, max_steps=3, save_every=5, weight_decay=math.inf)).run()

    assert committed_steps(desk.checkpoints.store) == []


def test_steps_in_a_row_that_are_not_finite_are_counted_over_a_resume(desk: Desk) -> None:
    poison(desk.model, set(range(1000)))
    config = replace(CONFIG, max_steps=50, save_every=100)
    desk.stop = lambda: len(desk.reports) == 5
    assert desk.trainer(config).run() == "stopped"
    desk.stop = lambda: False
    trainer = desk.trainer(config)
    poison(desk.model, set(range(1000)))  # whose weights are other tensors now

    with pytest.raises(NonFiniteError, match="up to step 10"):
        trainer.run()


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
