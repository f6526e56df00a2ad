"""
A training run from the person's side: begin it, resume it, or attach to it, and watch.

    exit_code = finetune(flags, sys.argv[1:])

Everything is checked before anything is written. `run.json` in the run's checkpoint folder holds
the settings; they are the defaults of every later launch of the same name.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instruct_core.config import TrainConfig, from_json, to_json
from instruct_core.data.packing import load_packing
from instruct_core.data.shards import ShardSet, load_manifest
from instruct_core.errors import ConfigError
from instruct_core.storage.documents import dump_document, load_document
from instruct_core.storage.steps import committed_steps, damage_of
from instruct_core.storage.store import Store
from jobs.finetune import FinetuneJob
from launch.cluster import (
    RunLock,
    choose_cluster,
    find_running,
    new_job_folder,
    num_cores,
    submit_local,
)
from launch.console import EXIT_FAILED, parse_flags, say
from launch.finetune import Finetune
from launch.preparing import prepare
from launch.preprocess import Preprocess
from launch.settings import (
    Places,
    absolute,
    check_flags,
    check_name,
    find_init,
    find_shards,
    refuse_conflicts,
    resolve,
    resumed_flags,
    shape_of_init,
    shape_of_run,
)
from launch.watching import watch


def finetune(flags: Finetune, arguments: Sequence[str]) -> int:
    """Begin, resume or attach to a run, and follow it to its end; return the exit code."""
    check_flags(flags)
    run = flags.run or f"{flags.model or 'gpt2'}-{Path(find_shards(flags.shards)).name}"
    check_name(run)
    checkpoints = absolute(flags.checkpoints)
    store = Store(checkpoints) / run
    stored = _stored(store, checkpoints)
    if stored is not None:
        flags = parse_flags(Finetune, arguments, default=resumed_flags(stored))
        flags = replace(flags, checkpoints=checkpoints)
        check_flags(flags)
    job_parent = _job_parent(flags, run)
    lock_path = store.local_path("lock") if store.is_local else job_parent / "lock"
    if (found := find_running(lock_path)) is not None:
        job, ledger = found
        say(f"Run {run} is training already (job {job.pid}); watching it.")
        return watch(job, run, Store(ledger))
    choose_cluster(flags.cluster)
    config = _settings(flags, run, stored)
    if config is None:
        return EXIT_FAILED if not flags.dry_run else 0
    if stored is not None and _has_begun(store):
        refuse_conflicts(config, stored)
        if _is_finished(config):
            return 0
    say(_described(config, flags.gpus))
    if flags.dry_run:
        say(f"Would start {flags.gpus} ranks on this machine, and submits nothing. Settings:")
        say(json.dumps(to_json(config), indent=1))
        return 0
    lock = RunLock(lock_path)
    if not lock.acquire():
        raise ConfigError(f"Run {run} is being started by another launcher. Try again in a second.")
    store.replace("run.json", dump_document(_run_document(config)))
    job = submit_local(
        FinetuneJob(config, code_version()), new_job_folder(job_parent), flags.gpus, lock
    )
    ledger = f"{config.runs}/{run}"
    lock.note(job, ledger)
    lock.close()
    say(f"Run {run}: job {job.pid}, log {job.log_path()}")
    say(f"Curves: tensorboard --logdir {config.runs}")
    return watch(job, run, Store(ledger))


def _stored(store: Store, checkpoints: str) -> TrainConfig | None:
    """Return the settings a run was begun with, where it lies now: a project may be moved."""
    try:
        document = load_document(store, "run.json")
    except FileNotFoundError:
        return None
    stored = from_json(document.get("config"), store.where("run.json"))
    before, now = (str(Path(place).parent) for place in (stored.checkpoints, checkpoints))
    if before == now or "://" in stored.checkpoints + checkpoints:
        return replace(stored, checkpoints=checkpoints)

    def moved(place: str) -> str:
        return now + place.removeprefix(before) if place.startswith(f"{before}/") else place

    return replace(
        stored,
        checkpoints=checkpoints,
        shards=moved(stored.shards),
        init=moved(stored.init),
        runs=moved(stored.runs),
    )


def _has_begun(store: Store) -> bool:
    """Return True if a run has saved: until then every setting may change."""
    return store.exists("committed.json") or bool(committed_steps(store))


def _run_document(config: TrainConfig) -> dict[str, Any]:
    return {
        "format": 1,
        "written_at": time.time(),
        "code": code_version(),
        "config": to_json(config),
    }


def _job_parent(flags: Finetune, run: str) -> Path:
    """Return where this run's jobs have their folders: beside its ledger if that is on a disk."""
    runs = flags.runs if "://" not in flags.runs else "runs_instruct"
    return Path(runs).resolve() / run / "job"


def _settings(flags: Finetune, run: str, stored: TrainConfig | None) -> TrainConfig | None:
    """Return the run's settings, making the default shards first if they are missing; or None."""
    shards = find_shards(flags.shards)
    store = Store(absolute(flags.checkpoints)) / run
    if stored is not None and _has_begun(store) and absolute(flags.init or "") == stored.init:
        init = stored.init  # a run that has begun does not need what it started from any more
    elif stored is not None and flags.init == stored.init == "random":
        init = "random"
    else:
        init = find_init(flags.init)
    shape = shape_of_run(store) if _has_begun(store) else shape_of_init(init, flags)
    places = Places(shards, init, absolute(flags.checkpoints), absolute(flags.runs))
    config = resolve(flags, places, run, shape)  # all that can be wrong, before any work
    if not Store(shards).exists("manifest.json"):
        if flags.dry_run:
            say("Would prepare builtin first: no shards are here yet. Nothing is written.")
            return None
        say("Shards: none here yet, so builtin is prepared first")
        builtin = Preprocess(source="builtin", out=shards, num_tasks=num_cores(), cluster="local")
        if prepare(builtin) != 0:
            return None
    elif flags.shards is None:
        say(f"Shards: {shards}")
    return replace(config, data_fingerprint=load_manifest(Store(shards))["fingerprint"])


def _is_finished(config: TrainConfig) -> bool:
    steps = committed_steps(Store(config.checkpoints) / config.run)
    if not steps or steps[-1] < config.max_steps:
        return False
    if damage := damage_of(Store(config.checkpoints) / config.run, steps[-1]):
        say(f"{damage} The run goes on from the one before.")
        return False
    say(
        f"Run {config.run} is finished: step {steps[-1]} of {config.max_steps}. Talk to it: "
        f"python launch/chat.py --run {config.run}; or go on with a larger --max-steps."
    )
    return True


def _described(config: TrainConfig, world_size: int) -> str:
    store = Store(config.shards)
    manifest = load_manifest(store)
    rows = ShardSet(store, "train", manifest)
    packing = load_packing(
        store, rows, "train", manifest["fingerprint"], config.seq_len, config.seed
    )
    if not len(rows):
        raise ConfigError(f"Shards {config.shards} have no row to train on. Prepare more rows.")
    epochs = config.max_steps * config.global_batch_size / max(1, packing.num_sequences)
    return (
        f"Data: {len(rows):,} rows in {packing.num_sequences:,} sequences, {packing.filled:.1%} "
        f"filled; {config.max_steps:,} steps are {epochs:.1f} epochs; a step is {world_size} ranks x "
        f"{config.grad_accum_steps(world_size)} micro-batches x {config.micro_batch_size}"
    )


def code_version() -> str:
    """Return the git commit of this code, with "+changes" where files differ from it."""
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], stderr=subprocess.DEVNULL)
        changes = subprocess.check_output([*git, "status", "--porcelain", "-uno"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.decode().strip() + ("+changes" if changes.strip() else "")
