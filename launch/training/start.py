"""
A training run from the person's side: begin it, resume it, or attach to it, and watch.

    exit_code = finetune(flags, sys.argv[1:])

Find the run, attach to it if it is training, find what it starts from, settle its settings, submit
it. Everything is checked before anything is written. `run.json` in the run's checkpoint folder holds
the settings; they are the defaults of every later launch of the same name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instruct_core.checkpoints.steps import committed_steps, damage_of
from instruct_core.config import TrainConfig, to_json
from instruct_core.errors import ConfigError
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from jobs.finetune import FinetuneJob
from launch.arrays.shards import prepare
from launch.cluster.frozen_code import code_difference, code_version, freeze_code
from launch.cluster.job_folder import new_job_folder
from launch.cluster.local import LocalJob
from launch.cluster.lock import RunLock
from launch.cluster.machine import num_cores
from launch.cluster.slurm import UNKNOWN, SlurmJob
from launch.console.lines import EXIT_FAILED, say
from launch.flags.array import ArrayFlags
from launch.flags.finetune import Finetune, check_flags
from launch.flags.parse import parse_flags
from launch.flags.preprocess import Preprocess
from launch.runs.follower import watch, watch_slurm
from launch.runs.places import absolute, check_url
from launch.runs.run import Run
from launch.training.inputs import check_places, find_inputs, find_shards, fingerprint_of
from launch.training.outlook import Plan, outlook
from launch.training.settings import asked_of, refuse_conflicts, resolve, resumed_flags
from launch.training.submission import choose_submission


def finetune(flags: Finetune, arguments: Sequence[str]) -> int:
    """Begin, resume or attach to a run, and follow it to its end; return the exit code."""
    flags, run, stored = _find(flags, arguments)
    if (exit_code := _attach(flags, run)) is not None:
        return exit_code
    submission = choose_submission(flags, run)
    has_begun = run.has_begun()
    inputs = find_inputs(flags, run.store, stored, has_begun)
    config, why = resolve(flags, inputs.places, run.name, inputs.shape, submission.machine)
    if not inputs.has_shards:  # all that can be wrong has been looked for: now there may be work
        if flags.dry_run:
            say("Would prepare builtin first: no shards are here yet. Nothing is written.")
            return 0
        if (exit_code := _prepare_builtin(config.shards)) != 0:
            return exit_code
    fingerprint = fingerprint_of(config.shards, submission.can_wait)
    config = replace(config, data_fingerprint=fingerprint)
    steps = committed_steps(run.store)
    if stored is not None and has_begun:
        refuse_conflicts(config, stored)
        if _is_finished(config, run.store, steps):
            return 0
    check_places(config, inputs.shape)
    step = max(steps, default=0)
    plan = Plan(config, inputs.shape, submission, flags.nodes, flags.gpus, inputs.init, why, step)
    _tell(plan)
    return _show(plan) if flags.dry_run else _start(flags, plan, run)


def _find(flags: Finetune, arguments: Sequence[str]) -> tuple[Finetune, Run, TrainConfig | None]:
    """
    Return the flags, the run that is meant, and its settings if it is there already.

    Its own settings are the flags that were not typed.
    """
    check_flags(flags)
    shards = find_shards(flags.shards, flags.slurm.after)
    name = flags.run or f"{flags.model or 'gpt2'}-{Path(shards).name}"
    run = Run.named(name, flags.checkpoints)
    check_url("--checkpoints", run.checkpoints, writes=not flags.dry_run)
    stored = run.config if run.exists() else None
    if stored is not None:
        default = resumed_flags(stored, run.document.get("asked", {}))
        flags = parse_flags(Finetune, arguments, default=default)
        check_flags(flags)
    flags = replace(flags, checkpoints=run.checkpoints, runs=absolute(flags.runs))
    check_url("--runs", flags.runs, writes=not flags.dry_run)
    return flags, replace(run, runs=flags.runs), stored


def _attach(flags: Finetune, run: Run) -> int | None:
    """Attach to a run that is queued or training; None if it is neither."""
    if (job := LocalJob.found(run.lock)) is not None:
        say(f"Run {run.name} is training already (job {job.pid}); watching it.")
        return watch(job, run.name)
    queued = SlurmJob.found(run.slurm_note)
    if queued is None or not queued.is_running():
        return None
    say(f"Run {run.name} is on Slurm already: job {queued.job_id}, {queued.state()}.")
    if queued.state() == UNKNOWN:
        say(f"If you know that it has ended, remove {run.slurm_note} and try again.")
        return EXIT_FAILED
    if flags.follow:
        return watch_slurm(queued, run.name)
    say(f"Follow it: python launch/logs.py {run.name} -f; end it: scancel {queued.job_id}")
    return 0


def _prepare_builtin(shards: str) -> int:
    say("Shards: none here yet, so builtin is prepared first, on this machine")
    tasks = ArrayFlags(num_tasks=num_cores(), cluster="local")
    return prepare(Preprocess(source="builtin", out=shards, array=tasks))


def _is_finished(config: TrainConfig, store: Store, steps: Sequence[int]) -> bool:
    if not steps or steps[-1] < config.max_steps:
        return False
    if damage := damage_of(store, steps[-1]):
        say(f"{damage} The run goes on from the one before.")
        return False
    say(
        f"Run {config.run} is finished: step {steps[-1]} of {config.max_steps}. Talk to it: "
        f"python launch/chat.py --run {config.run}; or go on with a larger --max-steps."
    )
    return True


def _tell(plan: Plan) -> None:
    """Say what is about to happen, once everything has been looked at."""
    rows, notes = outlook(plan), plan.submission.check(plan.config)
    for label, text in rows:
        say(f"{label:8}{text}")
    for note in notes:
        say(note)


def _show(plan: Plan) -> int:
    say("Submits nothing. Settings:")
    say(json.dumps(to_json(plan.config), indent=1))
    if script := plan.submission.script(plan.config):
        say(f"\n{script}")
    return 0


def _start(flags: Finetune, plan: Plan, run: Run) -> int:
    """Write down the run and submit its job; the only part of a launch that changes anything."""
    lock = RunLock(run.lock)
    queued_meanwhile = SlurmJob.found(run.slurm_note)
    if not lock.acquire() or (queued_meanwhile is not None and queued_meanwhile.is_running()):
        raise ConfigError(
            f"Run {run.name} is being started by another launcher. Try again in a second."
        )
    run.store.replace("run.json", dump_document(_document(plan.config, flags)))
    folder = new_job_folder(run.job_parent)
    freeze_code(folder)
    function = FinetuneJob(plan.config, code_version())
    submitted = plan.submission.submit(function, folder, lock)
    say(f"Run {run.name}: job {submitted.job.label}; log {submitted.job.log_path()}")
    say(f"{'Next':8}{submitted.next_step}")
    return submitted.follow()


def _document(config: TrainConfig, flags: Finetune) -> dict[str, Any]:
    return {
        "format": 1,
        "written_at": time.time(),
        "code": code_version(),
        "difference": code_difference(),
        "asked": asked_of(flags),
        "config": to_json(config),
    }
