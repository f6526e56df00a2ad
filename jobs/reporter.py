"""
What a rank tells of its attempt while it trains: ledger, curves, progress file, samples.

    reporter = Reporter(config, number, world, device, guard, deadline)
    reporter.note(Damaged("..."))
    reporter.resumed(step, model.config)
    ... on_event, on_step, on_samples, on_read are the trainer's callbacks ...
    reporter.ended(Finished(step), is_warned=False)

Rank 0 keeps ledger, curves and progress file; every rank the samples it reads, if that was asked for.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import Any

import torch

from instruct_core.checkpoints.manifest import Manifest
from instruct_core.config import TrainConfig, describe
from instruct_core.events import Evaluated, Event, Saved, SlowRank
from instruct_core.model.products import USUAL
from instruct_core.shape import Shape
from instruct_core.storage.patience import LOOK_AGAIN_SECONDS, naming, patiently
from instruct_core.storage.store import Store
from instruct_core.train.metrics import flops_per_token, peak_flops, system_metrics
from instruct_core.train.progress import SampleAnswer, StepReport
from instruct_core.train.wishes import Wishes
from jobs.bad_nodes import blame_aside
from jobs.control import Control, Request, Verb
from jobs.events import Finished, Paused, Requeued, Resumed, ShortLead, Started, Stopped
from jobs.job_folder import Progress, job_folder, write_progress
from jobs.ledger import note_untold_save
from jobs.notify import LAST_WORD_SECONDS, PATIENT_SECONDS, Notifier, What
from jobs.receipt import RunningReceipt
from jobs.records import Records
from jobs.slurm import own_restarts
from jobs.surroundings import Place, note_surroundings, surroundings
from jobs.survival.deadline import Deadline
from jobs.survival.guard import Guard
from jobs.timesheet import Timesheet
from jobs.world import World

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5  # how often the progress file is replaced at most
SYSTEM_METRICS_SECONDS = 5.0
# For the last event, progress, samples and curves of an attempt together. A warned one must be gone soon.
LAST_EVENT_SECONDS, LAST_EVENT_SECONDS_WHEN_WARNED = 60.0, LOOK_AGAIN_SECONDS


class Reporter:
    """
    All that one rank of an attempt reports to.

    Args:
        config: Of the run.
        number: Of the attempt.
        world: This rank's place among the others.
        device: Where it trains.
        guard: Knows how long steps take.
        deadline: Is told how long saves take; None where nothing limits the run's time.
        sheet: Knows where the attempt's seconds go.
        control: What people ask, on rank 0.
    """

    def __init__(
        self,
        config: TrainConfig,
        number: int,
        world: World,
        device: torch.device,
        guard: Guard,
        deadline: Deadline | None,
        sheet: Timesheet,
        control: Control | None = None,
    ) -> None:
        self._control = control
        self._sheet = sheet
        self._config, self._number, self._world, self._device = config, number, world, device
        self._guard, self._deadline = guard, deadline
        self._runs = Store(config.runs) / config.run
        self._folder = job_folder()
        self._records = Records(self._runs, number, world.rank, sheet.spent)
        self._receipt = RunningReceipt(self._runs, number, self._folder.parent)
        self._places: list[Place] = []  # of all ranks
        self._has_finished = False
        self._flops_per_token = 0.0
        self._reported_at = self._measured_at = 0.0
        self._told_lead = False
        self._notifier = Notifier(config.run, os.environ if world.rank == 0 else {})
        self._progress = Progress(
            ledger=self._runs.url,
            max_steps=config.max_steps,
            world_size=world.world_size,
            attempt=number,
        )
        if world.rank == 0:
            logger.info("Settings other than the defaults: %s", describe(config))

    def note(self, event: Event, patience_seconds: float = 0.0) -> None:
        """Write an event into the ledger, on rank 0; the last one with patience, as `Ledger.note`."""
        self._records.note(event, patience_seconds)
        if self._world.rank == 0:
            self._receipt.note(event, self._sheet.spent())

    def started(self, places: list[Place], code_version: str, products: str) -> None:
        """Say that all ranks have met, where they are, and what has changed since the last attempt."""
        self._places, world = places, self._world
        pids, hosts = [place.pid for place in places], [place.host for place in places]
        facts = (self._number, world.job_id, len(places), str(self._device), pids, hosts)
        library = None if products == USUAL else products
        parts = len(places) if self._config.is_in_parts(len(places)) else None
        self.note(Started(*facts, own_restarts(), library, parts))
        if world.rank == 0:
            around = surroundings(self._config, places, code_version, products)
            if (changed := note_surroundings(self._runs, self._number, around)) is not None:
                self.note(changed)

    def working(self, phase: str) -> None:
        """Take what begins now: "first step", "step", "evaluation", "save", "ending"."""
        self._guard.working(phase)
        self._sheet.begins(phase)
        steps, seconds = phase == "step", self._guard.step_seconds
        if not steps and self._progress.stepped_at is not None:
            self._report_progress("running", stepped_at=None)
        elif steps and self._progress.stepped_at is None and seconds:
            # Of a step that hangs right behind a save nobody would know that it had begun.
            self._report_progress("running", stepped_at=time.time(), step_seconds=seconds)
        # A warned rank's time is short, and `ended` tells it behind the save.
        if phase == "save" and not self._guard.asked():
            self._records.write_before_a_save()

    def loaded(self, manifest: Manifest) -> None:
        """Tell of a save whose own attempt could not, on rank 0."""
        if self._records.ledger is not None:
            try:
                note_untold_save(self._records.ledger, self._runs, manifest)
            except OSError as error:  # a store that is away must not end the run
                logger.warning("The ledger could not be read: %s", error)

    def resumed(self, step: int, shape: Shape) -> None:
        """Say where the attempt begins; called before the first step."""
        self._flops_per_token = flops_per_token(
            shape, self._config.seq_len, is_frozen=self._config.adapter is not None
        )
        self.note(Resumed(step))
        self.on_wish("extend", step)
        if self._number:
            self.notify(
                "resumed", f"goes on from step {step} of {self._config.max_steps}", step=step
            )
        self._records.begin(step, self._config.record_samples)
        self._report_progress("running", global_step=step, committed=step)

    def notify(self, what: What, text: str, **facts: Any) -> None:
        """Tell whoever wants to be told, if anybody does."""
        self._notifier.tell(what, text, attempt=self._number, job_id=self._world.job_id, **facts)

    def ended(self, event: Requeued | Stopped | Paused | Finished, is_warned: bool) -> None:
        """
        Say how the attempt ended, once all ranks agree on it.

        Args:
            event: How.
            is_warned: Its time is short, so it does not wait long for a disk or a store to take this.
        """
        seconds = LAST_EVENT_SECONDS_WHEN_WARNED if is_warned else LAST_EVENT_SECONDS
        until = time.monotonic() + seconds
        self.note(event, seconds)
        self._report_progress(event.name, until - time.monotonic(), global_step=event.step)
        self._records.write_last(until - time.monotonic())
        if isinstance(event, Requeued):
            text = f"was interrupted at step {event.step}; it has saved, and comes back"
            self.notify("preempted", text, step=event.step)
        elif isinstance(event, Finished):
            self._has_finished = True
            text = f"is finished: step {event.step}"
            self.notify("finished", text, step=event.step, val_loss=self._progress.val_loss)

    @property
    def ending(self) -> Request | None:
        """The stop or the pause that somebody asked for."""
        return None if self._control is None else self._control.ending

    def wishes(self) -> Wishes:
        """Return what people ask of the next step."""
        return Wishes() if self._control is None else self._control.wishes()

    def on_wish(self, wish: Verb, step: int) -> None:
        """Tell of what is done because somebody asked for it."""
        if self._control is not None:
            for event in self._control.take(wish, step):
                self.note(event)
            self._progress = replace(self._progress, max_steps=self._control.max_steps)

    def on_event(self, event: Event) -> None:
        """Take what the trainer tells."""
        if isinstance(event, Saved):
            event = replace(event, step_seconds=round(self._guard.step_seconds, 3))
        if isinstance(event, SlowRank):
            place = self._places[event.rank]
            event = replace(event, node=place.node or place.host, gpu=place.gpu)
            if self._world.rank == 0:
                blame_aside(place.node, "slow", str(event), self._config.run)
        self.note(event)
        if isinstance(event, Saved):
            if self._deadline is not None:
                self._deadline.save_seconds = event.seconds or 0.0
            self._report_progress("running", committed=event.step)
            if self._records.has_curves:
                self._log_receipt(event.step)
        if isinstance(event, Evaluated):
            self._progress = replace(self._progress, val_loss=event.val_loss)
            self._records.curves.log(event.step, {"val/loss": event.val_loss})

    def _log_receipt(self, step: int) -> None:
        """Draw where the run's hours went, all attempts together."""
        try:
            self._records.curves.log(step, self._receipt.values())
        except OSError as error:  # a store that is away must not end the run
            logger.warning("The ledger could not be read: %s", error)

    def on_samples(self, step: int, samples: list[SampleAnswer]) -> None:
        """Take answers of the model as it is."""
        self._records.curves.log_table(step, "samples", [SampleAnswer._fields, *samples])

    def on_read(self, step: int, samples: list[int]) -> None:
        """Take the numbers of the samples that this rank reads for a step."""
        self._records.read(step, samples)

    def on_step(self, report: StepReport) -> None:
        """Take what a step did."""
        step, values, now = report.progress.global_step, report.values, time.monotonic()
        self._sheet.waited_for_data(values["time/data_seconds"])
        if peak := peak_flops(self._device):
            speed = values["train/tokens_per_second"] / self._world.world_size
            values["train/mfu"] = self._flops_per_token * speed / peak
        if now - self._measured_at > SYSTEM_METRICS_SECONDS:
            self._measured_at = now
            values |= system_metrics(self._device)
        self._records.curves.log(step, values)
        if self._deadline is not None and self._deadline.short_lead and not self._told_lead:
            self._told_lead = True
            lead, needed = self._deadline.short_lead
            self.note(ShortLead(lead, round(needed, 1)))
        if now - self._reported_at > PROGRESS_SECONDS:
            self._reported_at = now
            loss, speed = values["train/loss"], values["train/tokens_per_second"]
            facts = {"loss": loss, "tokens_per_second": speed}
            rhythm = {"stepped_at": time.time(), "step_seconds": self._guard.step_seconds}
            self._report_progress("running", global_step=step, **facts, **rhythm)
            end = self._progress.max_steps or 0
            to_go = ""
            if rhythm["step_seconds"]:  # known from the second step on
                to_go = f", {(end - step) * rhythm['step_seconds'] / 60:.1f} min to go"
            logger.info("step %d of %d, loss %.4f, %.0f tokens/s%s", step, end, loss, speed, to_go)

    def _report_progress(self, state: str, patience_seconds: float = 0.0, **facts: Any) -> None:
        if self._world.rank == 0:
            self._progress = replace(self._progress, state=state, **facts)

            def write() -> None:
                write_progress(self._folder, self._progress)

            try:
                with naming(self._folder):
                    patiently(write, patience_seconds, lambda _: True)
            except OSError as error:  # a full disk must not end the run
                logger.warning("The progress could not be written: %s", error)

    def close(self) -> None:
        """Flush and close what was opened."""
        self._notifier.close(PATIENT_SECONDS if self._has_finished else LAST_WORD_SECONDS)
        self._records.close()
