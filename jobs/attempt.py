"""
What one rank does from its start to its end: join the others, load, train, tell how it goes.

    result = train(config, code_version, stop)

Rank 0 keeps the ledger, the curves and the progress file; every rank reads the newest verified
checkpoint from the store, never from its own past.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

from instruct_core import ranks
from instruct_core.checkpoints.loader import Loaded, load_newest
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import ModelConfig, TrainConfig, describe, identity_of
from instruct_core.data.batches import SampleReader
from instruct_core.data.packing import load_packing
from instruct_core.data.shards import ShardSet, load_manifest
from instruct_core.errors import RunConflictError
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage.store import Store
from instruct_core.train.metrics import Metrics, flops_per_token, peak_flops, system_metrics
from instruct_core.train.progress import Outcome, Setup, StepReport
from instruct_core.train.rng import be_deterministic
from instruct_core.train.trainer import Trainer
from jobs.job_folder import describe_error, job_folder, write_outcome, write_progress
from jobs.ledger import Ledger, newest_timed_save, note_untold_save
from jobs.slurm import own_restarts
from jobs.survival.deadline import DEFAULT_LEAD_SECONDS, Deadline
from jobs.survival.guard import Guard
from jobs.survival.requeue import MAX_WARNINGS_WITHOUT_PROGRESS, Answer, allows_warning, answer_to
from jobs.survival.stop_signal import StopSignal
from jobs.world import World, process_group, read_world

logger = logging.getLogger(__name__)

STORE_PATIENCE_SECONDS = 60.0  # with an object store that does not answer
PROGRESS_SECONDS = 0.5  # how often the progress file is replaced at most
SYSTEM_METRICS_SECONDS = 5.0


class Result(NamedTuple):
    """How a rank's training ended, and who brings the job back."""

    outcome: Outcome
    answer: Answer


def train(config: TrainConfig, code_version: str, stop: StopSignal) -> Result:
    """Run one attempt on this rank; see the module's page."""
    world = read_world()
    if config.deterministic:
        be_deterministic()
    runs = Store(config.runs) / config.run
    deadline = _deadline(runs) if world.rank == 0 and "SLURM_JOB_ID" in os.environ else None
    with (
        Guard(lambda: stop.noted, job_folder(), world.rank, deadline) as guard,
        process_group(world) as device,
    ):
        attempt = _Attempt(config, code_version, world, device, guard, deadline)
        try:
            outcome = attempt.run()
            received = ranks.gather_from_ranks(stop.received)
            answer: Answer = "stop"
            if outcome == "stopped":
                mine = attempt.answer(received) if world.rank == 0 else None
                answer = ranks.gather_from_ranks(mine)[0]  # Slurm is asked once
            attempt.conclude(outcome, answer, received, stop.received_at_seconds)
        except Exception as error:
            guard.working("save")  # the ledger may lie in a store that takes its time
            attempt.note("failed", error=describe_error(error))
            raise
        finally:
            attempt.close()
        return Result(outcome, answer)


def _deadline(runs: Store) -> Deadline:
    save = newest_timed_save(runs)
    lead = float(os.environ.get("INSTRUCT_LEAD", DEFAULT_LEAD_SECONDS))
    return Deadline(lead, save["seconds"] if save is not None else 0.0)


class _Attempt:
    """One attempt of a run on one rank, and all it reports to."""

    def __init__(
        self,
        config: TrainConfig,
        code_version: str,
        world: World,
        device: torch.device,
        guard: Guard,
        deadline: Deadline | None,
    ) -> None:
        self._config, self._world, self._device = config, world, device
        self._guard, self._deadline = guard, deadline
        self._facts = {
            "run": config.run,
            "identity": identity_of(config),
            "versions": {name: version(name) for name in ("instruct-cluster", "torch", "numpy")},
            "git_commit": code_version,
        }
        self._folder = job_folder()
        self._runs = Store(config.runs) / config.run
        place = Store(config.checkpoints, patience_seconds=STORE_PATIENCE_SECONDS)
        self._checkpoints = Checkpoints(place / config.run)
        self._ledger: Ledger | None = None
        self._metrics: Metrics | None = None
        self._samples: Any = None
        self._reported_at = self._measured_at = 0.0
        self._told_lead = False
        self._state: dict[str, Any] = {
            "ledger": self._runs.url,
            "max_steps": config.max_steps,
            "world_size": world.world_size,
        }

    def run(self) -> Outcome:
        config = self._config
        number = self._checkpoints.claim_attempt()
        if self._world.rank == 0:
            self._ledger = Ledger(self._runs, number)
            logger.info("Settings:\n%s", describe(config))
        self.note(
            "started", attempt=number, job_id=self._world.job_id, world_size=self._world.world_size,
            device=str(self._device), pids=ranks.gather_from_ranks(os.getpid()),
            hosts=ranks.gather_from_ranks(socket.gethostname()), restarts=own_restarts(),
        )  # fmt: skip
        train, val_rows, val = self._data()
        loaded = load_newest(
            self._checkpoints,
            on_damaged=lambda message: self.note("damaged", message=message),
            on_foreign=lambda message: self.note("foreign", message=message),
        )
        self._check_identity(loaded)
        if loaded is not None and self._ledger is not None:
            note_untold_save(self._ledger, self._runs, loaded.manifest)
        trainer = Trainer(config, self._setup(train, val_rows, val, loaded), loaded)
        step = trainer.progress.global_step
        self.note("resumed", step=step)
        if config.record_samples:
            name = f"samples-{number:04d}-{self._world.rank:05d}.jsonl"
            self._samples = self._runs.local_path(name).open("a")
        self._report_progress("running", global_step=step, committed=step)
        self._resumed_at = step
        outcome = trainer.run()
        self._ended_at = trainer.progress.global_step
        return outcome

    def answer(self, received: list[signal.Signals | None]) -> Answer:
        """Return who brings this warned run back; nobody if it is warned over and over for nothing."""
        answer = answer_to(received)
        if answer == "stop" or allows_warning(self._folder, self._resumed_at, self._ended_at):
            return answer
        error = (
            f"warned {MAX_WARNINGS_WITHOUT_PROGRESS} times in a row before a step was made. Raise "
            "--time, or lower --lead."
        )
        self.note("failed", error=error)
        write_outcome(self._folder, error, "", retry=False)
        return "stop"

    def conclude(
        self,
        outcome: Outcome,
        answer: Answer,
        received: list[signal.Signals | None],
        since: float | None,
    ) -> None:
        """Say how the attempt ended, once all ranks agree on it."""
        step = self._ended_at
        if outcome == "stopped":
            names = sorted({signum.name for signum in received if signum is not None})
            seconds = round(time.monotonic() - since, 3) if since is not None else 0.0
            self.note("warned", step=step, signal=" and ".join(names), seconds=seconds)
        end = "requeued" if answer != "stop" else outcome
        self.note(end, step=step)
        self._report_progress(end, global_step=step)

    def _data(self) -> tuple[SampleReader, ShardSet, SampleReader]:
        config = self._config
        store = Store(config.shards)
        manifest = load_manifest(store)
        if manifest["fingerprint"] != config.data_fingerprint:
            raise RunConflictError(
                f"Shards {store.url} are not those the run {config.run} was begun with: fingerprint "
                f"{manifest['fingerprint'][:12]}, expected {config.data_fingerprint[:12]}. Give the "
                "old ones back with --shards, or begin another --run."
            )
        rows = {split: ShardSet(store, split, manifest) for split in ("train", "val")}
        readers = {}
        for split, these in rows.items():
            packing = load_packing(
                store, these, split, manifest["fingerprint"], config.seq_len, config.seed
            )
            readers[split] = SampleReader(these, packing, config.loss_on)
        return readers["train"], rows["val"], readers["val"]

    def _check_identity(self, loaded: Loaded | None) -> None:
        if loaded is not None and loaded.manifest["identity"] != self._facts["identity"]:
            found, expected = loaded.manifest["identity"], identity_of(self._config)
            name = next(name for name in expected if found.get(name) != expected[name])
            raise RunConflictError(
                f"Run {self._config.run} has a checkpoint at step {loaded.step} that was made with "
                f"{name} {found.get(name)}, not {expected[name]}. Begin another --run."
            )

    def _setup(
        self, train: SampleReader, val_rows: ShardSet, val: SampleReader, loaded: Loaded | None
    ) -> Setup:
        model = self._model(loaded)
        self._shape = model.config
        return Setup(
            model=model,
            device=self._device,
            train=train,
            val=val,
            val_rows=val_rows,
            checkpoints=self._checkpoints,
            facts=self._facts,
            stop=self._guard.asked,
            working=self._guard.working,
            on_event=self._on_event,
            on_step=self._on_step,
            on_samples=self._on_samples,
            on_read=self._on_read,
        )

    def _model(self, loaded: Loaded | None) -> GPT2:
        """Return the model on the host; its weights come from ``loaded`` where there is one."""
        config = self._config
        if loaded is not None:
            return GPT2(ModelConfig(**loaded.manifest["model"]), config.dropout)
        from instruct_core.model.weights import first_model

        return first_model(config.init, config.model, config.seed, config.seq_len, config.dropout)

    def note(self, event: str, **facts: Any) -> None:
        """Write an event into the ledger, on rank 0."""
        if self._ledger is not None:
            self._ledger.note(event, **facts)

    def _on_event(self, event: str, **facts: Any) -> None:
        if event == "saved":
            facts["step_seconds"] = round(self._guard.step_seconds, 3)
        self.note(event, **facts)
        if event == "saved":
            if self._deadline is not None:
                self._deadline.save_seconds = facts["seconds"]
            self._report_progress("running", committed=facts["step"])
            if self._metrics is not None:
                self._metrics.publish()
        if event == "evaluated":
            self._state["val_loss"] = facts["val_loss"]
            self._curves().log(facts["step"], {"val/loss": facts["val_loss"]})

    def _on_samples(self, step: int, markdown: str) -> None:
        self._curves().log_text(step, "samples", markdown)

    def _on_read(self, step: int, samples: list[int]) -> None:
        self._samples.write(json.dumps({"step": step, "samples": samples}) + "\n")
        self._samples.flush()

    def _on_step(self, report: StepReport) -> None:
        step, values, now = report.progress.global_step, report.values, time.monotonic()
        if peak := peak_flops(self._device):
            flops = flops_per_token(self._shape, self._config.seq_len)
            speed = values["train/tokens_per_second"] / self._world.world_size
            values["train/mfu"] = flops * speed / peak
        if now - self._measured_at > SYSTEM_METRICS_SECONDS:
            self._measured_at = now
            values |= system_metrics(self._device)
        self._curves().log(step, values)
        if self._deadline is not None and self._deadline.short_lead and not self._told_lead:
            self._told_lead = True
            lead, needed = self._deadline.short_lead
            self.note("short_lead", lead_seconds=lead, needed_seconds=round(needed, 1))
        if now - self._reported_at > PROGRESS_SECONDS:
            self._report_progress(
                "running",
                global_step=step,
                loss=values["train/loss"],
                tokens_per_second=values["train/tokens_per_second"],
            )
            logger.info(
                "step %d of %d, loss %.4f, %.0f tokens/s",
                step,
                self._config.max_steps,
                values["train/loss"],
                values["train/tokens_per_second"],
            )

    def _report_progress(self, state: str, **facts: Any) -> None:
        if self._world.rank == 0:
            self._reported_at = time.monotonic()
            self._state |= {"state": state, "attempt": self._checkpoints.attempt, **facts}
            try:
                write_progress(self._folder, **self._state)
            except OSError as error:  # a full disk must not end the run
                logger.warning("The progress could not be written: %s", error)

    def _curves(self) -> Metrics:
        # Opened with the first point: tensorboard's import must not delay the first step.
        if self._metrics is None:
            self._metrics = Metrics(self._runs, self._checkpoints.attempt, self._resumed_at)
        return self._metrics

    def close(self) -> None:
        """Flush and close what was opened."""
        if self._metrics is not None:
            self._metrics.close()
        if self._samples is not None:
            self._samples.close()
