"""
What one rank does from its start to its end: join the others, load, train, say who brings it back.

    result = train(config, code_version, stop)

Every rank reads the newest verified checkpoint from the store, never from its own past; what it tells
meanwhile is the reporter's.
"""

from __future__ import annotations

import os
import socket
import traceback
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from instruct_core import ranks
from instruct_core.checkpoints.loader import Loaded, load_newest
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import TrainConfig, identity_of
from instruct_core.data.batches import SampleReader
from instruct_core.data.lost_tokens import check_learns, measurable
from instruct_core.data.packing import load_packing
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shards import ShardSet
from instruct_core.errors import NoCheckpointError, RunConflictError
from instruct_core.model.products import USUAL, products_by
from instruct_core.storage.patience import LOOK_AGAIN_SECONDS
from instruct_core.storage.store import Store
from instruct_core.train.beginning import Beginning, begin
from instruct_core.train.compiler import keep_compiled_apart
from instruct_core.train.progress import Setup
from instruct_core.train.rng import be_deterministic
from instruct_core.train.trainer import Trainer
from jobs.causes import cause_of_text
from jobs.control import Control
from jobs.drill import Hits, read_schedule
from jobs.ending import Ran, Result, conclude
from jobs.events import Damaged, Failed, Foreign
from jobs.first_seconds import look_for_settings, try_out
from jobs.gpu_memory import out_of_gpu_memory_is_a_setting
from jobs.job_folder import describe_error, job_folder, store_may_be_away
from jobs.ledger import lost_save
from jobs.products import PRODUCTS, choose_products
from jobs.reporter import Reporter
from jobs.surroundings import Place
from jobs.survival.deadline import deadline_of
from jobs.survival.guard import PATIENCE_SECONDS, Guard
from jobs.survival.stop_signal import StopSignal
from jobs.timesheet import Timesheet
from jobs.world import World, process_group, read_world

# With an object store that does not answer at a start; well below what the guard takes for a hang. After
# it the job starts again, without the count of crashes.
STORE_PATIENCE_SECONDS = PATIENCE_SECONDS / 2


def train(
    config: TrainConfig,
    code_version: str,
    stop: StopSignal,
    may_hang: bool = False,
    needs_gpu: bool = False,
) -> Result:
    """
    Run one attempt on this rank; see the module's page.

    Args:
        config: What the run is.
        code_version: The commit of the code.
        stop: Notes warnings.
        may_hang: A person steps through it, so nobody ends it for standing still.
        needs_gpu: The settings were chosen for GPUs.
    """
    sheet = Timesheet()
    sheet.begins("meeting")
    world = read_world()
    _set_up_torch(config)
    runs = Store(config.runs) / config.run
    deadline = deadline_of(runs) if world.rank == 0 and "SLURM_JOB_ID" in os.environ else None
    with (
        Guard(lambda: stop.noted, job_folder(), world.rank, deadline, may_hang) as guard,
        process_group(world, needs_gpu, config.is_in_parts(world.world_size)) as device,
    ):
        sheet.begins("load")
        checkpoints = Checkpoints(Store(config.checkpoints, _patience(config)) / config.run)
        with store_may_be_away():
            number = _claim(checkpoints)
            control, config = _control(checkpoints, config, world)
            products = choose_products(checkpoints.store, device)
        reporter = Reporter(config, number, world, device, guard, deadline, sheet, control)
        try:
            reporter.started(_places(device), code_version, products)
            with store_may_be_away():
                try_out(device, _node())
                hits = _hits(config, number, world, stop)
            facts = _facts(config, code_version, products)
            attempt = _Attempt(config, facts, device, guard, checkpoints, reporter, hits)
            with control or nullcontext(), products_by(products):
                return conclude(attempt.run(), stop, world, reporter, control)
        except Exception as error:
            reporter.working("ending")  # the ledger may lie in a store that takes its time
            reporter.note(_failed(error), LOOK_AGAIN_SECONDS)  # the last event of this attempt
            raise
        finally:
            reporter.close()


def _set_up_torch(config: TrainConfig) -> None:
    if config.deterministic:
        be_deterministic()
    if config.compile:
        keep_compiled_apart()


def _claim(checkpoints: Checkpoints) -> int:
    """Take the next attempt number, where the run is seen: what is not there must not be begun."""
    look_for_settings(checkpoints.store, _node())
    return checkpoints.claim_attempt()


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME", "")


def _hits(config: TrainConfig, attempt: int, world: World, stop: StopSignal) -> Hits:
    """Return what a drill has planned for this rank, if there is one."""
    place = Store(config.runs, _patience(config)) / config.run
    return Hits(place, read_schedule(place), attempt, world, lambda: stop.noted)


def _failed(error: Exception) -> Failed:
    said = describe_error(error)
    return Failed(said, *cause_of_text(said, "".join(traceback.format_exception(error))))


def _control(
    checkpoints: Checkpoints, config: TrainConfig, world: World
) -> tuple[Control | None, TrainConfig]:
    """Return what looks for requests, on rank 0, and the settings with the end asked for last."""
    control = None
    if world.rank == 0:
        control = Control(checkpoints.store, checkpoints.attempt, config.max_steps)
    ends_at = ranks.value_of_rank_0(control.max_steps if control is not None else 0)
    return control, replace(config, max_steps=ends_at)


def _patience(config: TrainConfig) -> float:
    return min(60 * config.max_unsaved_minutes, STORE_PATIENCE_SECONDS)


def _places(device: torch.device) -> list[Place]:
    """Return where every rank is."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    found = ranks.gather_from_ranks((os.getpid(), socket.gethostname(), gpu, _node()))
    return [Place(*place) for place in found]


def _facts(config: TrainConfig, code_version: str, products: str) -> dict[str, Any]:
    """Return what every checkpoint of an attempt says of where it comes from."""
    versions = {name: version(name) for name in ("instruct-cluster", "torch", "numpy")}
    return {
        "run": config.run,
        "identity": identity_of(config),
        "versions": versions if products == USUAL else versions | {PRODUCTS: products},
        "git_commit": code_version,
    }


class _Attempt:
    """One attempt of a run on one rank: what it loads, and its training."""

    def __init__(
        self,
        config: TrainConfig,
        facts: dict[str, Any],
        device: torch.device,
        guard: Guard,
        checkpoints: Checkpoints,
        reporter: Reporter,
        hits: Hits,
    ) -> None:
        self._config, self._device, self._guard = config, device, guard
        self._checkpoints, self._reporter, self._hits = checkpoints, reporter, hits
        self._facts = facts
        checkpoints.amid_data = hits.look_amid_save

    def run(self) -> Ran:
        """Train from the newest checkpoint, or from the first step, to the end or to a warning."""
        with store_may_be_away():
            trainer = self._trainer()
        with out_of_gpu_memory_is_a_setting(self._config, self._device):
            return Ran(trainer.run(), trainer.progress.global_step)

    def _trainer(self) -> Trainer:
        """
        Return what trains on from the newest checkpoint.

        Nothing here outlives this call: on a GPU the loaded state is a second copy, on the host.
        """
        reporter = self._reporter
        train, val_rows, val = self._data()
        self._guard.working("start")  # what was waited for so far is over
        loaded = load_newest(
            self._checkpoints,
            on_damaged=lambda message: reporter.note(Damaged(message)),
            on_foreign=lambda message: reporter.note(Foreign(message)),
        )
        self._guard.working("start")
        self._check_identity(loaded)
        if loaded is not None:
            reporter.loaded(loaded.manifest)
        else:
            self._refuse_lost()
        beginning = begin(self._config, loaded, _patience(self._config), val_rows.vocab_size)
        with out_of_gpu_memory_is_a_setting(self._config, self._device, before_a_step=True):
            trainer = Trainer(self._config, self._setup(beginning, train, val_rows, val), loaded)
        reporter.resumed(trainer.progress.global_step, beginning.model.config)
        return trainer

    def _refuse_lost(self) -> None:
        """Refuse to begin at the first step what has saved before, on all ranks."""
        lost = ""
        if ranks.rank() == 0:
            lost = lost_save(Store(self._config.runs) / self._config.run, self._checkpoints.store)
        if lost := ranks.value_of_rank_0(lost):
            raise NoCheckpointError(lost)

    def _data(self) -> tuple[SampleReader, ShardSet, SampleReader]:
        config = self._config
        store = Store(config.shards, _patience(config))
        manifest = load_manifest(store)
        if manifest.fingerprint != config.data_fingerprint:
            raise RunConflictError(
                f"Shards {store.url} are not those the run {config.run} was begun with: fingerprint "
                f"{manifest.fingerprint[:12]}, expected {config.data_fingerprint[:12]}. Give the "
                "old ones back with --shards, or begin another --run."
            )
        rows = {split: ShardSet(store, split, manifest) for split in ("train", "val")}
        packings = {
            split: load_packing(
                store, these, split, manifest.fingerprint, config.seq_len, config.seed
            )
            for split, these in rows.items()
        }
        check_learns(rows["train"], packings["train"], config.loss_on)
        packings["val"] = measurable(rows["val"], packings["val"], config.loss_on)
        train, val = (SampleReader(rows[s], packings[s], config.loss_on) for s in ("train", "val"))
        return train, rows["val"], val

    def _check_identity(self, loaded: Loaded | None) -> None:
        if loaded is not None and loaded.manifest.identity != self._facts["identity"]:
            found, expected = loaded.manifest.identity or {}, identity_of(self._config)
            name = next(n for n in expected | found if found.get(n) != expected.get(n))
            raise RunConflictError(
                f"Run {self._config.run} has a checkpoint at step {loaded.step} that was made with "
                f"{name} {found.get(name)}, not {expected.get(name)}. Begin another --run."
            )

    def _setup(
        self, beginning: Beginning, train: SampleReader, val_rows: ShardSet, val: SampleReader
    ) -> Setup:
        return Setup(
            model=beginning.model,
            device=self._device,
            train=train,
            val=val,
            val_rows=val_rows,
            checkpoints=self._checkpoints,
            facts={**self._facts, **beginning.facts},
            config_file=beginning.config_file,
            stop=self._asks_for_an_end,
            working=self._reporter.working,
            on_event=self._reporter.on_event,
            on_step=self._reporter.on_step,
            on_samples=self._reporter.on_samples,
            on_read=self._on_read,
            moments=beginning.moments,
            wishes=self._reporter.wishes,
            on_wish=self._reporter.on_wish,
        )

    def _asks_for_an_end(self) -> bool:
        return self._guard.asked() or self._reporter.ending is not None

    def _on_read(self, step: int, samples: list[int]) -> None:
        self._reporter.on_read(step, samples)
        self._hits.look(step)
