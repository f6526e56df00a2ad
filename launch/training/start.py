"""
A training run from the person's side: begin it, resume it, or attach to it, and watch.

    exit_code = finetune(flags, sys.argv[1:])

Everything is checked before anything is written. `run.json` in the run's checkpoint folder holds
the settings; they are the defaults of every later launch of the same name. On Slurm the job is
queued and the launcher returns; on this machine it follows the job to its end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instruct_core.checkpoints.steps import committed_steps, damage_of
from instruct_core.config import ModelConfig, TrainConfig, to_json
from instruct_core.data.packing import load_packing
from instruct_core.data.shards import ShardSet, load_manifest
from instruct_core.errors import ConfigError
from instruct_core.storage.documents import dump_document, load_document
from instruct_core.storage.store import Store
from jobs.finetune import FinetuneJob
from launch.arrays.shards import prepare
from launch.cluster.frozen_code import code_difference, code_version, freeze_code
from launch.cluster.job_folder import new_job_folder
from launch.cluster.local import find_running, submit_local
from launch.cluster.lock import RunLock
from launch.cluster.machine import THIS_MACHINE, Machine, choose_cluster, num_cores, this_machine
from launch.cluster.slurm import UNKNOWN, SlurmJob, running_array
from launch.console.lines import EXIT_FAILED, say
from launch.flags.finetune import Finetune, check_flags
from launch.flags.parse import check_name, parse_flags
from launch.flags.preprocess import Preprocess
from launch.runs.follower import watch, watch_slurm
from launch.runs.places import absolute, check_url
from launch.runs.run import job_parent, lock_path, note_path, stored_config, stored_document
from launch.training.inputs import check_places, find_init, find_shards, shape_of_init, shape_of_run
from launch.training.settings import Places, asked_of, refuse_conflicts, resolve, resumed_flags
from launch.training.submission import QueuedRun


def finetune(flags: Finetune, arguments: Sequence[str]) -> int:
    """Begin, resume or attach to a run, and follow it to its end; return the exit code."""
    check_flags(flags)
    run = flags.run or f"{flags.model or 'gpt2'}-{Path(_shards_of(flags)).name}"
    check_name(run)
    checkpoints = absolute(flags.checkpoints)
    check_url("--checkpoints", checkpoints, writes=not flags.dry_run)
    store = Store(checkpoints) / run
    stored = stored_config(store)
    if stored is not None:
        default = resumed_flags(stored, (stored_document(store) or {}).get("asked", {}))
        flags = parse_flags(Finetune, arguments, default=default)
        flags = replace(flags, checkpoints=checkpoints)
        check_flags(flags)
    check_url("--runs", absolute(flags.runs), writes=not flags.dry_run)
    parent = job_parent(flags.runs, run)
    lock = lock_path(store, parent)
    if (exit_code := _attach(flags, run, lock)) is not None:
        return exit_code
    queued = None
    if choose_cluster(flags.cluster) == "slurm":
        queued = QueuedRun(flags, run)
        machine = queued.machine
    elif flags.nodes != 1:
        raise ConfigError(
            f"--nodes must be 1 on the local executor, got {flags.nodes}. Use --nodes 1 and more "
            "--gpus."
        )
    else:
        machine = this_machine()
    settings = _settings(flags, run, stored, machine)
    if settings is None:
        return EXIT_FAILED if not flags.dry_run else 0
    config, shape = settings
    if stored is not None and _has_begun(store):
        refuse_conflicts(config, stored)
        if _is_finished(config):
            return 0
    check_places(config, shape)
    _describe(config, flags.nodes * flags.gpus)
    if queued is not None:
        queued.check(config, parent)
    if flags.dry_run:
        say("Submits nothing. Settings:")
        say(json.dumps(to_json(config), indent=1))
        if queued is not None:
            queued.show(config, parent)
        return 0
    return _start(flags, config, queued, parent, lock)


def _shards_of(flags: Finetune) -> str:
    return find_shards(flags.shards, flags.slurm.after)


def _attach(flags: Finetune, run: str, lock: Path) -> int | None:
    """Attach to a run that is queued or training; None if it is neither."""
    if (found := find_running(lock)) is not None:
        job, ledger = found
        say(f"Run {run} is training already (job {job.pid}); watching it.")
        return watch(job, run, Store(ledger))
    queued = SlurmJob.found(note_path(lock))
    if queued is None or not queued.is_running():
        return None
    say(f"Run {run} is on Slurm already: job {queued.job_id}, {queued.state()}.")
    if queued.state() == UNKNOWN:
        say(f"If you know that it has ended, remove {note_path(lock)} and try again.")
        return EXIT_FAILED
    if flags.follow:
        return watch_slurm(queued, run)
    say(f"Follow it: python launch/logs.py {run} -f; end it: scancel {queued.job_id}")
    return 0


def _start(
    flags: Finetune,
    config: TrainConfig,
    queued: QueuedRun | None,
    parent: Path,
    lock_file: Path,
) -> int:
    """Write down the run and submit its job; the only part of a launch that changes anything."""
    run, ledger, note = config.run, f"{config.runs}/{config.run}", note_path(lock_file)
    lock = RunLock(lock_file)
    queued_meanwhile = SlurmJob.found(note)
    if not lock.acquire() or (queued_meanwhile is not None and queued_meanwhile.is_running()):
        raise ConfigError(f"Run {run} is being started by another launcher. Try again in a second.")
    store = Store(config.checkpoints) / run
    store.replace("run.json", dump_document(_run_document(config, flags)))
    folder = new_job_folder(parent)
    freeze_code(folder)
    function = FinetuneJob(config, code_version())
    if queued is not None:
        queued_job = queued.submit(function, folder, ledger)
        queued_job.write_note(note)
        lock.close()
        _tell(run, queued_job, config)
        return watch_slurm(queued_job, run) if flags.follow else 0
    note.unlink(missing_ok=True)  # of an earlier job on Slurm, which has ended
    job = submit_local(function, folder, flags.gpus, lock)
    lock.note(job.pid, job.folder, ledger)
    lock.close()
    say(f"Run {run}: job {job.pid}, log {job.log_path()}")
    say(f"Curves: tensorboard --logdir {config.runs}")
    return watch(job, run, Store(ledger))


def _tell(run: str, job: SlurmJob, config: TrainConfig) -> None:
    say(f"Run {run}: job {job.job_id}, {job.state()}; log {job.log_path()}")
    say(f"See: python launch/status.py {run}; python launch/logs.py {run} -f")
    say(f"Save and end it: scancel {job.job_id}; go on later: the same command again")
    say(f"Curves: tensorboard --logdir {config.runs}")


def _has_begun(store: Store) -> bool:
    """Return True if a run has saved: until then every setting may change."""
    return store.exists("committed.json") or bool(committed_steps(store))


def _run_document(config: TrainConfig, flags: Finetune) -> dict[str, Any]:
    return {
        "format": 1,
        "written_at": time.time(),
        "code": code_version(),
        "difference": code_difference(),
        "asked": asked_of(flags),
        "config": to_json(config),
    }


def _settings(
    flags: Finetune, run: str, stored: TrainConfig | None, machine: Machine
) -> tuple[TrainConfig, ModelConfig] | None:
    """Return the run's settings and its model's shape, making the default shards first; or None."""
    shards = _shards_of(flags)
    store = Store(absolute(flags.checkpoints)) / run
    if stored is not None and _has_begun(store) and absolute(flags.init or "") == stored.init:
        init = stored.init  # a run that has begun does not need what it started from any more
    elif stored is not None and flags.init == stored.init == "random":
        init = "random"
    else:
        init = find_init(flags.init)
    shape = shape_of_run(store) if _has_begun(store) else shape_of_init(init, flags)
    places = Places(shards, init, absolute(flags.checkpoints), absolute(flags.runs))
    config = resolve(flags, places, run, shape, machine)  # all that can be wrong, before any work
    found = Store(shards)
    if found.exists("manifest.json"):
        if flags.shards is None:
            say(f"Shards: {shards}")
        return replace(config, data_fingerprint=load_manifest(found)["fingerprint"]), shape
    if found.exists("plan.json") and (flags.slurm.after or running_array(found)):
        if machine.name == THIS_MACHINE:
            raise ConfigError(
                f"Shards {shards} are still being made on Slurm. Wait for them, or train on Slurm too."
            )
        plan = load_document(found, "plan.json")
        return replace(config, data_fingerprint=plan["fingerprint"]), shape
    if flags.dry_run:
        say("Would prepare builtin first: no shards are here yet. Nothing is written.")
        return None
    say("Shards: none here yet, so builtin is prepared first, on this machine")
    builtin = Preprocess(source="builtin", out=shards, num_tasks=num_cores(), cluster="local")
    if prepare(builtin) != 0:
        return None
    return replace(config, data_fingerprint=load_manifest(found)["fingerprint"]), shape


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


def _describe(config: TrainConfig, world_size: int) -> None:
    store = Store(config.shards)
    step = (
        f"a step is {world_size} ranks x {config.grad_accum_steps(world_size)} micro-batches x "
        f"{config.micro_batch_size}"
    )
    if not store.exists("manifest.json"):
        say(f"Data: {config.shards} is still being made; {config.max_steps:,} steps, {step}")
        return
    manifest = load_manifest(store)
    rows = ShardSet(store, "train", manifest)
    packing = load_packing(
        store, rows, "train", manifest["fingerprint"], config.seq_len, config.seed
    )
    if not len(rows):
        raise ConfigError(f"Shards {config.shards} have no row to train on. Prepare more rows.")
    epochs = config.max_steps * config.global_batch_size / max(1, packing.num_sequences)
    say(
        f"Data: {len(rows):,} rows in {packing.num_sequences:,} sequences, {packing.filled:.1%} "
        f"filled; {config.max_steps:,} steps are {epochs:.1f} epochs; {step}"
    )
