"""
The training loop: from a checkpoint, or from none, to the last step or to a warning.

    trainer = Trainer(config, setup)
    outcome = trainer.run()         # "finished", or "stopped" with everything saved

Where a run stands is its `Progress`, and a checkpoint holds all of it: weights, optimizer, random
generators and four integers. The loop votes once a step: whether any rank was warned, how many
tokens the step's loss is a mean of, and what the last loss was, in one exchange on the CPU. On a GPU
nothing waits between two steps: what a step came to is read, voted on and reported while the next
one is computed. What needs all of the state, a save or an evaluation, waits for it first.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from instruct_core import ranks
from instruct_core.checkpoints.loader import Loaded
from instruct_core.checkpoints.manifest import Progress
from instruct_core.checkpoints.saves import Saves
from instruct_core.checkpoints.snapshot import Snapshot
from instruct_core.config import TrainConfig
from instruct_core.data.batches import MicroBatch, without_loss
from instruct_core.events import Evaluated
from instruct_core.model.lora import load_saved, saved_tensors
from instruct_core.train.compiler import HOW
from instruct_core.train.flight import STEPS_IN_FLIGHT, Landed, Readings, Step
from instruct_core.train.gradients import Gradients
from instruct_core.train.loss import WithLoss
from instruct_core.train.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from instruct_core.train.pace import Pace, Stopwatch
from instruct_core.train.progress import (
    Outcome,
    Setup,
    StepReport,
    after_step,
    busy_shares,
    check_end,
    next_samples,
    noted,
)
from instruct_core.train.rng import restore_rng, rng_state, seed_rng
from instruct_core.train.schedule import learning_rate_at
from instruct_core.train.sharding import shard
from instruct_core.train.validation import sample_answers, validation_loss
from instruct_core.train.vote import Vote, hold_vote, shares


class Trainer:
    """
    One rank's part of a run.

    Args:
        config: The recipe.
        setup: Model, data, stores and callbacks of this rank.
        loaded: The checkpoint to go on from, or None.
    """

    def __init__(self, config: TrainConfig, setup: Setup, loaded: Loaded | None) -> None:
        self._config, self._setup = config, setup
        if loaded is not None:
            load_saved(setup.model, loaded.model)
        setup.model.blocks.are_recomputed = config.activation_checkpointing == "on"
        # Then all ranks meet in every layer, wherever one is computed.
        self._in_parts = config.is_in_parts(ranks.world_size())
        if self._in_parts:
            shard(setup.model, setup.device)
        else:
            setup.model.to(setup.device)
        self._core = WithLoss(setup.model, config.compile)
        if config.compile:
            setup.model.compile(**HOW)
        self._optimizer = make_optimizer(setup.model, config)
        self._gradients = Gradients(self._core, self._optimizer, config, setup, loaded)
        self.progress = Progress(global_step=0, samples_seen=0, tokens_seen=0)
        self._saves = Saves(config, setup.checkpoints, self._snapshot, setup.on_event)
        self._read_ahead = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._flying: list[Step] = []
        self._landed: Landed | None = None  # and not voted on
        self._landed_at = 0.0
        # Ranks that meet in every layer are busy equally long, whatever each has to do.
        work = busy_shares(config, ranks.world_size())
        self._pace = Pace([1] * len(work) if self._in_parts else work)
        self._busy_seconds = 0.0  # of a step, as far as all ranks know
        self._owes_save = False  # one that was due and waits for a step with a finite gradient
        moments = setup.moments if loaded is None else loaded.optimizer
        restore_optimizer(setup.model, self._optimizer, moments)
        self._setup = replace(setup, moments={})  # they are the optimizer's, or copied
        if loaded is not None:
            self.progress = loaded.manifest.progress
            self._saves.saved_step = self.progress.global_step
        if loaded is None or loaded.rng is None:
            seed_rng(config.seed, ranks.rank(), self.progress.global_step)
        else:
            restore_rng(loaded.rng)

    def run(self) -> Outcome:
        """
        Train until the last step or until a rank is warned; the state is saved either way.

        Raises:
            NonFiniteError: Ten steps in a row gave no finite gradient, or the end no finite loss.
            UnsavedError: No checkpoint could be written for too long.
            LateSaveError: The last one could not, in the time that a warned rank has.
            FencedError: A newer attempt has begun.
        """
        batches = self._read_step()
        phase = "first step"
        while True:
            waited_at = time.monotonic()
            step = self.progress.global_step
            micro_batches = batches.result()
            data_seconds = time.monotonic() - waited_at
            mine = sum(batch.num_loss_tokens for batch in micro_batches)
            vote = hold_vote(self._setup, mine, self._landed, self._saves)
            if vote.save_is_settled:
                self._setup.working("settling")  # reports may go to a store that takes its time
                self._saves.look()
            self._report(vote.loss_sum, vote.busy_seconds)
            if self._ends_later(vote.max_steps):
                batches = self._read_step()
                continue
            stopping, done = vote.stops, step >= self._config.max_steps
            if (self._is_due(self._config.eval_every) or done) and not stopping:
                stopping = not self._evaluate()
            if done:
                check_end(self.progress, self._config)
            if stopping or done:
                return self._finish_saving("finished" if done else "stopped")
            self._save_if_due(vote)
            self._setup.working(phase)
            phase = "step"
            if not self._begin_step(micro_batches, vote.num_loss_tokens, data_seconds):
                return self._finish_saving("stopped")
            batches = self._read_step()
            self._land(STEPS_IN_FLIGHT[self._setup.device.type])

    def _land(self, in_flight: int) -> None:
        """Wait for all steps that were begun but the last so many."""
        while len(self._flying) > in_flight:
            landed = self._flying.pop(0).land(self._landed_at)
            self._landed_at = time.monotonic()
            ended, made = landed.progress, landed.was_made
            scale = landed.values.get("train/loss_scale", 1.0)
            self.progress = noted(self.progress, ended.global_step, made, self._config, scale)
            so_far = self.progress.skipped_steps, self.progress.non_finite_in_a_row
            ended = replace(ended, skipped_steps=so_far[0], non_finite_in_a_row=so_far[1])
            self._landed = landed._replace(progress=ended)

    def _settle(self) -> None:
        """Wait for the step in flight, if there is one, and report it; called by all ranks."""
        if self._flying:
            self._land(0)
            loss_sum, *busy = ranks.sum_over_ranks(shares(self._landed))
            self._report(loss_sum, busy)

    def _ends_later(self, max_steps: int) -> bool:
        """Move the end where somebody asked; True if what was read ahead ends with the old one."""
        ended, step = self._config.max_steps, self.progress.global_step
        if max_steps <= ended:
            return False
        self._config = replace(self._config, max_steps=max_steps)
        self._setup.on_wish("extend", step)
        return step >= ended

    def _save_if_due(self, vote: Vote) -> None:
        step = self.progress.global_step
        if vote.save_is_asked and step:  # of a new run after its first step
            self._setup.on_wish("save", step)
        due = vote.save_is_due or vote.save_is_asked or self._is_due(self._config.save_every)
        if not step or not (due or self._owes_save):
            return
        self._settle()
        # Weights that give no finite gradient may be broken: they must not push out good ones.
        self._owes_save = self.progress.non_finite_in_a_row > 0 and not vote.save_is_asked
        if not self._owes_save:
            self._setup.working("save")
            self._saves.begin(step)

    def _is_due(self, every: int) -> bool:
        return self.progress.global_step % every == 0

    def _read_step(self) -> Future[list[MicroBatch]]:
        """Start reading the step that follows `progress`, in a thread, while the GPU computes."""
        return self._read_ahead.submit(self._micro_batches, self.progress)

    def _micro_batches(self, progress: Progress) -> list[MicroBatch]:
        """Return this rank's share of a step: a pure function of where the run stands."""
        config, train = self._config, self._setup.train
        if progress.global_step >= config.max_steps:
            return []
        samples = next_samples(progress, config, train, ranks.rank(), ranks.world_size())
        if config.record_samples:
            self._setup.on_read(progress.global_step, np.concatenate(samples).tolist())
        if self._in_parts and not len(samples[0]):
            nothing = without_loss(train.micro_batch(samples[-1][:1]))
            return [nothing, *map(train.micro_batch, samples[1:])]
        return [train.micro_batch(sequences) for sequences in samples]

    def _begin_step(
        self, batches: list[MicroBatch], num_loss_tokens: float, data_seconds: float
    ) -> bool:
        """
        Queue one update from the micro-batches of this rank.

        Returns False if a rank was warned and the rest of the step would take too long: then the
        run stands where it stood before the step, random generators included.
        """
        config, started_at = self._config, time.monotonic()
        watch = Stopwatch(self._setup.device, data_seconds)
        learning_rate = learning_rate_at(self.progress.global_step, config)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        # DDP takes the mean over ranks; the loss is the mean over the tokens of all ranks.
        scale = ranks.world_size() / max(1.0, num_loss_tokens)
        loss_sum = self._gradients.add_up(batches, scale, watch, self._busy_seconds)
        if loss_sum is None:
            return False
        norm = self._gradients.clip()
        readings = Readings(loss_sum, norm, *self._gradients.scale_on_device)
        self._saves.hold_update()
        self._gradients.update(norm)
        self.progress = after_step(self.progress, self._config)
        values = {
            "train/learning_rate": learning_rate,
            "train/loss_tokens": num_loss_tokens,
            "time/data_seconds": data_seconds,
            "time/save_seconds": self._saves.take_stall_seconds(),
        }
        self._flying.append(Step(self.progress, values, readings, watch, started_at))
        return True

    def _report(self, loss_sum: float, busy_seconds: list[float]) -> None:
        """Tell of the step that has landed, if one has, what all ranks agreed on."""
        landed, self._landed = self._landed, None
        if landed is None:
            return
        self._busy_seconds = max(busy_seconds)
        if ranks.rank() == 0:
            progress, values = landed.progress, landed.values
            for event in self._pace.look(progress.global_step, busy_seconds):
                self._setup.on_event(event)
            seconds = time.monotonic() - landed.started_at
            values["train/loss"] = loss_sum / max(1.0, values["train/loss_tokens"])
            values["train/skipped_steps"] = float(progress.skipped_steps)
            values["time/step_seconds"] = seconds
            values["train/tokens_per_second"] = self._config.tokens_per_step / seconds
            self._setup.on_step(StepReport(progress, values))

    def _evaluate(self) -> bool:
        """Evaluate if this step has not been; False where a rank was warned meanwhile."""
        step, setup = self.progress.global_step, self._setup
        if self.progress.evaluated_at_step == step or not len(setup.val):
            return True
        self._settle()
        setup.working("evaluation")
        # DDP's wrapper has nothing to add without gradients, and ranks differ in their batches.
        size, autocast = self._config.micro_batch_size, self._gradients.autocast()
        places = (setup.val, setup.device)
        val_loss = validation_loss(self._core, *places, size, autocast, setup.stop, self._in_parts)
        if val_loss is None:
            return False
        self.progress = replace(self.progress, evaluated_at_step=step, val_loss=val_loss)
        if ranks.rank() == 0:
            setup.on_event(Evaluated(step, val_loss))
            if not self._in_parts:  # to answer, a rank would need all others, token by token
                self._show_answers(step)
        return True

    def _show_answers(self, step: int) -> None:
        # A frozen base lies there in halves.
        with self._gradients.autocast() if self._config.lora else nullcontext():
            answers = sample_answers(self._core, self._setup.val_rows, self._setup.stop)
        self._setup.on_samples(step, answers)

    def _finish_saving(self, outcome: Outcome) -> Outcome:
        self._settle()
        self._setup.working("save")
        self._saves.finish(self.progress.global_step, self._setup.stop)
        return outcome

    def _snapshot(self, copied: bool) -> Snapshot:
        setup, progress = self._setup, self.progress
        facts = {"progress": progress, "loss_scale": self._gradients.scale}
        return setup.checkpoints.take(
            progress.global_step,
            model=saved_tensors(setup.model),
            model_config=setup.config_file,
            optimizer=optimizer_tensors(setup.model, self._optimizer),
            rng=rng_state(),
            facts=setup.facts | {"model": setup.model.config, **facts},
            copied=copied,
        )
