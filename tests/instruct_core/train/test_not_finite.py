"""Steps whose gradient is not finite, and weights that are broken."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from instruct_core.checkpoints.steps import committed_steps
from instruct_core.errors import NonFiniteError
from instruct_core.train.loss import WithLoss
from instruct_core.train.validation import NUM_SAMPLES, sample_answers
from tests.instruct_core.train.desk import CONFIG, Desk, poison


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


def test_model_of_no_numbers_has_no_sample_answers_and_trains_on(desk: Desk) -> None:
    with torch.no_grad():
        desk.model.transformer.ln_f.bias.fill_(math.nan)

    answers = sample_answers(WithLoss(desk.model), desk.val_rows, lambda: False)

    assert [answer.answer for answer in answers] == [""] * NUM_SAMPLES
    assert all(answer.prompt for answer in answers)
    assert desk.model.training
