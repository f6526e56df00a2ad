"""
The training loop: from a checkpoint, or from none, to the last step or to a warning.

    trainer = Trainer(config, setup)
    outcome = trainer.run()         # "finished", or "stopped" with everything saved

Where a run stands is its `Progress`, and a checkpoint holds all of it: weights, optimizer, random
generators and four integers. The loop votes once a step: whether any rank was warned, how many
tokens the step's loss is a mean of, and what the last loss was, in one exchange on the CPU.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch.nn.parallel import DistributedDataParallel

from instruct_core import ranks
from instruct_core.checkpoints.loader import Loaded
from instruct_core.checkpoints.manifest import Progress
from instruct_core.checkpoints.saves import Saves
from instruct_core.checkpoints.writer import Snapshot
from instruct_core.config import TrainConfig
from instruct_core.data.batches import MicroBatch
from instruct_core.events import Evaluated
from instruct_core.model.lora import load_saved, saved_tensors
from instruct_core.train.compiler import data_parallel, settle_buckets
from instruct_core.train.loss import WithLoss, on_device
from instruct_core.train.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from instruct_core.train.pace import Pace, Stopwatch
from instruct_core.train.progress import Outcome, Setup, StepReport, after_step, next_samples
from instruct_core.train.rng import restore_rng, rng_state, seed_rng
from instruct_core.train.schedule import learning_rate_at
from instruct_core.train.validation import sample_answers, validation_loss
from instruct_core.train.vote import Vote, hold_vote

# A warned step that would take longer than this is given up; the run goes on from the one before.
STOP_PATIENCE_SECONDS = 10.0


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
        self._core = WithLoss(setup.model.to(setup.device))
        if config.compile:
            setup.model.compile(dynamic=False)  # kernels must not depend on what came before
        self._model = self._wrap()
        self._optimizer = make_optimizer(setup.model, config)
        self.progress = Progress(global_step=0, samples_seen=0, tokens_seen=0)
        self._saves = Saves(config, setup.checkpoints, self._snapshot, setup.on_event)
        self._read_ahead = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._loss_sum = torch.zeros((), device=setup.device)
        self._watch, self._pace = Stopwatch(setup.device), Pace()
        if ranks.world_size() > 1:
            settle_buckets(self._model, setup.device)
            self._clear_gradients()
        moments = setup.moments if loaded is None else loaded.optimizer
        restore_optimizer(setup.model, self._optimizer, moments)
        if loaded is not None:
            self.progress = loaded.manifest.progress
            self._saves.saved_step = self.progress.global_step
        if loaded is None or loaded.rng is None:
            seed_rng(config.seed, ranks.rank(), self.progress.global_step)
        else:
            restore_rng(loaded.rng)

    def _wrap(self) -> WithLoss | DistributedDataParallel:
        if ranks.world_size() == 1:
            return self._core
        return data_parallel(self._core, self._setup.device, self._config.compile)

    def run(self) -> Outcome:
        """
        Train until the last step or until a rank is warned; the state is saved either way.

        Raises:
            NonFiniteError: Ten steps in a row gave no finite loss or gradient.
            UnsavedError: No checkpoint could be written for too long.
            OSError: The last one could not.
            FencedError: A newer attempt has begun.
        """
        started_at = time.monotonic()
        values: dict[str, float] = {}
        batches = self._read_step()
        phase = "first step"
        while True:
            waited_at = time.monotonic()
            step = self.progress.global_step
            micro_batches = batches.result()
            data_seconds = time.monotonic() - waited_at
            mine = sum(batch.num_loss_tokens for batch in micro_batches)
            vote = hold_vote(self._setup, mine, self._loss_sum, self._saves, self._watch)
            if vote.save_is_settled:
                self._setup.working("save")  # reports may go to a store that takes its time
                self._saves.look()
            if values:
                self._report(vote, values, time.monotonic() - started_at)
                values = {}
            if self._ends_later(vote.max_steps):
                batches = self._read_step()
                continue
            stopping, done = vote.stops, step >= self._config.max_steps
            if (self._is_due(self._config.eval_every) or done) and not stopping:
                stopping = not self._evaluate()
            if stopping or done:
                return self._finish_saving("finished" if done else "stopped")
            self._save_if_due(vote)
            started_at = time.monotonic()
            self._setup.working(phase)
            phase = "step"
            self._watch.start(data_seconds)
            report = self._train_step(micro_batches, vote.num_loss_tokens)
            if report is None:
                return self._finish_saving("stopped")
            stall = self._saves.take_stall_seconds()
            values = report | {"time/data_seconds": data_seconds, "time/save_seconds": stall}
            batches = self._read_step()

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
        if vote.save_is_asked:
            self._setup.on_wish("save", step)
        due = vote.save_is_due or vote.save_is_asked or self._is_due(self._config.save_every)
        if step and due:
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
            self._setup.on_read(progress.global_step, samples.ravel().tolist())
        return [train.micro_batch(sequences) for sequences in samples]

    def _train_step(
        self, batches: list[MicroBatch], num_loss_tokens: float
    ) -> dict[str, float] | None:
        """
        Make one update from the micro-batches of this rank; return what it was like.

        Returns None if a rank was warned and the rest of the step would take too long: then the
        run stands where it stood before the step, random generators included.
        """
        config, started_at = self._config, time.monotonic()
        learning_rate = learning_rate_at(self.progress.global_step, config)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        # DDP takes the mean over ranks; the loss is the mean over the tokens of all ranks.
        scale = ranks.world_size() / max(1.0, num_loss_tokens)
        self._loss_sum = torch.zeros((), device=self._setup.device)
        if not self._backward(batches, scale, started_at):
            return None
        norm = torch.nn.utils.clip_grad_norm_(self._core.parameters(), config.clip)
        grad_norm = norm.item()  # waits for the GPU: a step that is not finite must not be made
        finite = math.isfinite(grad_norm)
        if finite:
            self._saves.hold_update()
            self._optimizer.step()
        self._clear_gradients()
        self.progress = after_step(self.progress, self._config, finite)
        return {
            "train/learning_rate": learning_rate,
            "train/grad_norm": grad_norm,
            "train/skipped_steps": float(self.progress.skipped_steps),
            "train/loss_tokens": num_loss_tokens,
            "time/compute_seconds": time.monotonic() - started_at,
        }

    def _backward(self, batches: list[MicroBatch], scale: float, started_at: float) -> bool:
        """Add up the gradients of a step; False where it is given up, and all is as before it."""
        before = rng_state() if len(batches) > 1 else {}
        for index, batch in enumerate(batches):
            if index and self._gives_up(index, len(batches), time.monotonic() - started_at):
                self._clear_gradients()
                restore_rng(before)
                return False
            with self._sync_only_if(index == len(batches) - 1):
                with self._autocast():
                    loss = self._model(*on_device(batch, self._setup.device))
                self._watch.stop()  # the last of the step counts: its backward waits for others
                (loss * scale).backward()
            self._loss_sum += loss.detach()
        return True

    def _gives_up(self, done: int, total: int, seconds: float) -> bool:
        """Return on all ranks whether a warned step is given up after ``done`` micro-batches."""
        stops, seconds_of_all = ranks.sum_over_ranks([float(self._setup.stop()), seconds])
        remaining = seconds_of_all / ranks.world_size() / done * (total - done)
        return stops > 0 and remaining > STOP_PATIENCE_SECONDS

    def _clear_gradients(self) -> None:
        # Under DDP they stay where they are, in its buckets: fresh ones would be a second copy.
        self._optimizer.zero_grad(set_to_none=ranks.world_size() == 1)

    def _sync_only_if(self, last: bool) -> AbstractContextManager[None]:
        if last or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        return self._model.no_sync()

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(
            self._setup.device.type, torch.bfloat16, self._config.precision == "bf16"
        )

    def _report(self, vote: Vote, values: dict[str, float], seconds: float) -> None:
        if ranks.rank() == 0:
            for event in self._pace.look(self.progress.global_step, vote.busy_seconds):
                self._setup.on_event(event)
            values["train/loss"] = vote.loss_sum / max(1.0, values["train/loss_tokens"])
            values["time/step_seconds"] = seconds
            values["train/tokens_per_second"] = self._config.tokens_per_step / seconds
            self._setup.on_step(StepReport(self.progress, values))

    def _evaluate(self) -> bool:
        """Evaluate if this step has not been; False where a rank was warned meanwhile."""
        step, setup = self.progress.global_step, self._setup
        if self.progress.evaluated_at_step == step or not len(setup.val):
            return True
        setup.working("evaluation")
        # DDP's wrapper has nothing to add without gradients, and ranks differ in their batches.
        size, autocast = self._config.micro_batch_size, self._autocast()
        val_loss = validation_loss(self._core, setup.val, setup.device, size, autocast, setup.stop)
        if val_loss is None:
            return False
        self.progress = replace(self.progress, evaluated_at_step=step, val_loss=val_loss)
        if ranks.rank() == 0:
            setup.on_event(Evaluated(step, val_loss))
            with self._autocast() if self._config.lora else nullcontext():  # frozen halves
                markdown = sample_answers(self._core, setup.val_rows, setup.stop)
            setup.on_samples(step, markdown)
        return True

    def _finish_saving(self, outcome: Outcome) -> Outcome:
        self._setup.working("save")
        self._saves.finish(self.progress.global_step, self._setup.stop)
        return outcome

    def _snapshot(self, copied: bool) -> Snapshot:
        setup = self._setup
        return setup.checkpoints.take(
            self.progress.global_step,
            model=saved_tensors(setup.model),
            model_config=setup.config_file,
            optimizer=optimizer_tensors(setup.model, self._optimizer),
            rng=rng_state(),
            facts=setup.facts | {"model": setup.model.config, "progress": self.progress},
            copied=copied,
        )
